"""BurstGPT: CSV of arrivals and lengths over months, without hashes.

From the repository HPMLL/BurstGPT (Wang et al., KDD 2025): ``Timestamp`` in seconds since midnight
of the first day, ``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens`` and
``Log Type``; ``BurstGPT_3`` also has ``Session ID`` (empty for requests through the API) and
``Elapsed time``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from greencache.traces.csvlines import NO_BLOCKS, UNHASHED_BLOCK_TOKENS, Columns, whole
from greencache.traces.lines import BadLineError, LineParser, Request

__all__ = ["BurstgptParser"]

_SESSION = "Session ID"


class BurstgptParser(LineParser):
    """Reads one line of such a trace.

    A failed request has no response tokens, and some have no request tokens either: both are left
    out, as in the files ``BurstGPT_without_fails``. A request without ``Session ID`` is a session
    of its own.
    """

    block_tokens = UNHASHED_BLOCK_TOKENS
    fields = ("Timestamp", "Request tokens", "Response tokens")
    window = 1024

    def __init__(self, header: Sequence[str]) -> None:
        self.has_sessions = _SESSION in header
        self._columns = Columns(header, [*self.fields, *([_SESSION] * self.has_sessions)])
        self._alone = 0

    def parse(self, text: bytes) -> Request | None:
        """Read one line."""
        stamp, prompt_text, answer_text, *session = self._columns.of(text)
        try:
            time_s = float(stamp)
        except ValueError:
            raise BadLineError(f"Timestamp is {stamp[:40]!r}, not a number") from None
        prompt, answer = whole(prompt_text, self.fields[1]), whole(answer_text, self.fields[2])
        if prompt == 0 or answer == 0:
            return None
        return Request(time_s, prompt, answer, NO_BLOCKS, self._number(*session))

    def _number(self, session: str = "") -> int:
        """Sessions with a name get numbers from 0, by its hash; the others negative ones."""
        if name := session.strip():
            digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
            return int.from_bytes(digest, "little") >> 1
        self._alone += 1
        return -self._alone
