"""Lookup logs of LMCache: JSON lines with the chunk hashes of every lookup.

``lmcache server --lookup-hash-log-dir DIR`` writes one line for each lookup, to files that rotate:
``timestamp`` (Unix seconds), ``request_id``, ``model_name``, ``chunk_size``, ``seq_len``,
``dtypes``, ``shapes``, and ``chunk_hashes``, hexadecimal hashes of the full chunks, each of the
whole prefix (LMCache 0.5.6, lmcache/v1/mp_observability/subscribers/logging/lookup_hash.py). The
log has no answers, so every output is 1 token long here; prompts shorter than a chunk are not
looked up and not in it.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

import msgspec
import numpy as np

from greencache.traces.lines import MOST_TOKENS, BadLineError, LineParser, RecentKeys, Request

__all__ = ["LmcacheParser"]

_MASK = 2**64 - 1


class _Line(msgspec.Struct):
    timestamp: float
    chunk_size: int
    seq_len: int
    chunk_hashes: list[str]
    request_id: str = ""
    model_name: str = ""


def _fingerprint(text: str) -> int:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class LmcacheParser(LineParser):
    """Reads one line of such a log.

    Models do not share blocks: the model's name goes into the block's. A request that was looked up
    before (the engine asks again for one that had to wait or was preempted) is left out as long as
    it is among the latest few hundred thousand. Several threads write the log, so that lines can be
    slightly out of order.
    """

    fields = ("timestamp", "seq_len", "output")
    hashes = "chunk_hashes"
    window = 1024

    def __init__(self) -> None:
        self.block_tokens = 0
        self._decoder = msgspec.json.Decoder(_Line)
        self._seen = RecentKeys()

    def parse(self, text: bytes) -> Request | None:
        """Read one line."""
        line = self._decoder.decode(text)
        if not 1 <= line.chunk_size < MOST_TOKENS:
            raise BadLineError(f"chunk_size is {line.chunk_size}; it must be at least 1")
        if self.block_tokens not in (0, line.chunk_size):
            raise BadLineError(
                f"chunk_size is {line.chunk_size} after {self.block_tokens}; read such parts apart"
            )
        if len(line.chunk_hashes) * line.chunk_size > line.seq_len:
            raise BadLineError(
                f"{len(line.chunk_hashes)} chunk_hashes for {line.seq_len} tokens, "
                f"more than full chunks of {line.chunk_size}"
            )
        try:
            hashes = [int(each, 16) & _MASK for each in line.chunk_hashes]
        except ValueError:
            raise BadLineError("a chunk hash is not hexadecimal") from None
        self.block_tokens = line.chunk_size
        if line.request_id:
            key = _fingerprint(line.request_id)
            if self._seen.get(key) is not None:
                return None
            self._seen.put(key, 1)
        model = np.uint64(_fingerprint(line.model_name) & _MASK)
        names = array("q")
        names.frombytes((np.array(hashes, np.uint64) ^ model).tobytes())
        return Request(line.timestamp, line.seq_len, 1, names)
