"""HTTP with limits: a deadline for the whole answer, a bound on its size, no redirects.

Whatever goes wrong is a `SourceError` of one of these kinds:

=============  =====================================================================
``down``       no connection, or it broke
``slow``       no whole answer within the time allowed
``limited``    429, or 503 with a time to wait
``refused``    another answer from 400 to 499: a wrong key, zone or plan
``failing``    500 and above
``garbage``    not what was asked for: a redirect, another encoding, not JSON
``huge``       more bytes than allowed
=============  =====================================================================
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from greencache.errors import InputError, SourceError
from greencache.quantities import DAY_S
from greencache.version import VERSION

__all__ = ["RefusedError", "Web", "decoded", "number"]

_MOST_BYTES = 8 * 2**20
_LONGEST_WAIT_S = DAY_S
"""A source that asks for more than a day is asked again after one."""

Answer = TypeVar("Answer")


class RefusedError(SourceError):
    """The source understood and will not answer: a status from 400 to 499.

    Parameters
    ----------
    status:
        The HTTP status.
    reason:
        As for `SourceError`.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__("refused", reason)
        self.status = status


class Web:
    """Asks one HTTP service.

    Parameters
    ----------
    base_url:
        Where it is; what is asked for is appended.
    timeout_s:
        Time for a whole answer.
    most_bytes:
        Size of the largest answer that is read.
    secret:
        Whether keys are sent to it; then it has to be encrypted, or on this machine.

    Raises
    ------
    InputError
        If secrets would travel in the open.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        most_bytes: int = _MOST_BYTES,
        secret: bool = False,
    ) -> None:
        parts = urlsplit(base_url)
        if secret and parts.scheme != "https" and not _on_this_machine(parts.hostname or ""):
            raise InputError(f"a key is not sent over http to {parts.hostname}: use https")
        self.host = parts.netloc
        self._base_url, self._timeout_s, self._most_bytes = base_url, timeout_s, most_bytes
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Web:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the next question opens one again."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def get(
        self,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> bytes:
        """The body of a good answer.

        Raises
        ------
        SourceError
            If there is none; its kind tells why.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get(path, params, headers, auth)
        except TimeoutError:
            raise SourceError(
                "slow", f"{self.host} gave no whole answer in {self._timeout_s:g} s"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as fault:
            reason = str(fault) or type(fault).__name__
            raise SourceError("down", f"{self.host} cannot be asked: {reason}") from None

    async def _get(
        self,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        auth: tuple[str, str] | None,
    ) -> bytes:
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=_trusted(self._base_url), timeout=self._timeout_s, follow_redirects=False
            )
        # Without compression an answer is no larger than what arrives of it.
        asked = {"Accept-Encoding": "identity", "User-Agent": f"greencache/{VERSION}"}
        query = dict(params) if params else None
        async with self._client.stream(
            "GET", self._base_url + path, params=query, headers={**asked, **(headers or {})},
            auth=auth,
        ) as answer:  # fmt: skip
            self._check(answer)
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > self._most_bytes:
                    raise SourceError(
                        "huge", f"{self.host} sends more than {self._most_bytes:,} bytes"
                    )
            return bytes(body)

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == 429 or (status == 503 and "retry-after" in answer.headers):
            wait_s = _wait_s(answer.headers.get("retry-after"))
            raise SourceError(
                "limited", f"{self.host} wants fewer questions ({status})", retry_after_s=wait_s
            )
        if 400 <= status < 500:
            raise RefusedError(
                status, f"{self.host} refuses ({status}): a wrong key, zone or plan?"
            )
        if status >= 500:
            raise SourceError("failing", f"{self.host} fails ({status})")
        if status != 200:
            raise SourceError("garbage", f"{self.host} answers {status}, not 200")
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise SourceError("garbage", f"{self.host} answers in {encoding}, unasked")


def decoded(body: bytes, kind: type[Answer], host: str) -> Answer:
    """A JSON answer of a known form.

    Raises
    ------
    SourceError
        If it is not JSON, or of another form.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise SourceError("garbage", f"{host} gives no answer of its form: {fault}") from None


def number(value: Any) -> float:  # noqa: ANN401 - whatever JSON holds
    """A number of JSON; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _NAN


_NAN = float("nan")


def _trusted(url: str) -> ssl.SSLContext:
    """Whose certificates are good; nobody's where none are used, which saves reading them."""
    if urlsplit(url).scheme == "https":
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wait_s(text: str | None) -> float | None:
    """The header Retry-After (RFC 9110, 10.2.3): seconds, or a date."""
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    if not wait_s >= 0:
        return None
    return min(wait_s, _LONGEST_WAIT_S)
