"""What every source of carbon intensity is to the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from greencache.controller.intensity import Points
from greencache.errors import InputError, SourceError
from greencache.traces.grid import parse_utc

__all__ = ["Label", "Provider", "chunks", "iso", "seconds"]


class Label(NamedTuple):
    """What a series is: figures with other labels are not to be mixed.

    Attributes
    ----------
    zone:
        As the source calls it.
    kind:
        ``average`` (of all plants) or ``marginal`` (of those that follow the load).
    factors:
        ``lifecycle`` (building and fuelling the plants included) or ``direct`` (burning only).
    source:
        Whose figures they are.
    """

    zone: str
    kind: str
    factors: str
    source: str


class Provider(Protocol):
    """A source of one zone's carbon intensity."""

    @property
    def label(self) -> Label:
        """What its series is."""

    @property
    def backfill_s(self) -> float:
        """How far back it is to be asked at first."""

    async def history(self, since_s: float, now_s: float) -> Points:
        """What it knows of the time since ``since_s`` (seconds since 1970), or more, or less.

        Raises
        ------
        SourceError
            If it gave nothing that can be used.
        """

    async def forecast(self, now_s: float) -> Points | None:
        """Its own forecast from ``now_s`` on; None if it has none.

        Raises
        ------
        SourceError
            If it gave nothing that can be used.
        """

    async def close(self) -> None:
        """Close connections."""


def iso(time_s: float) -> str:
    """A time as all these services read it, to the second."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def seconds(text: str, host: str) -> float:
    """A time of an answer, in seconds since 1970.

    Raises
    ------
    SourceError
        If it is none.
    """
    try:
        return parse_utc(text).timestamp()
    except (InputError, OverflowError):
        raise SourceError("garbage", f"{host} gives {text[:40]!r} for a time") from None


def chunks(since_s: float, until_s: float, most_s: float) -> Iterator[tuple[float, float]]:
    """A span in parts of a bounded length, the newest first."""
    while until_s > since_s:
        begin_s = max(since_s, until_s - most_s)
        yield begin_s, until_s
        until_s = begin_s
