"""What the scheduler's side of the connector tells the workers' side, and hears from it.

All of it is plain data: vLLM pickles it between its own processes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Load", "Report", "Save", "Step"]


@dataclass(frozen=True, slots=True)
class Load:
    """Blocks that a worker is to copy from the store to the engine.

    Attributes
    ----------
    request:
        The engine's name of the request.
    lease:
        What the store keeps for it.
    first:
        Place in the prompt of the first engine block that is filled.
    block_ids:
        The engine's blocks to fill.
    """

    request: str
    lease: int
    first: int
    block_ids: list[int]


@dataclass(frozen=True, slots=True)
class Save:
    """Blocks that a worker is to copy from the engine to the store.

    Attributes
    ----------
    request:
        The engine's name of the request.
    reservation:
        The room that was taken.
    block_ids:
        The engine's blocks, as many for each of the store's as make one up.
    """

    request: str
    reservation: int
    block_ids: list[int]


@dataclass(slots=True)
class Step:
    """What workers do in one step.

    Attributes
    ----------
    loads, saves:
        To begin.
    wait:
        Reservations that have to be written before the step runs: their blocks were taken from
        their request.
    finished:
        Requests whose blocks the engine keeps until their saves have ended.
    """

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
    wait: list[int] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What workers have done since the last report.

    Attributes
    ----------
    loaded:
        Leases that are needed no more, whether or not all was loaded, and on how many ranks.
    saved:
        Reservations that ended, whether or not they were stored, and on how many ranks.
    dropped:
        Those of them that a rank did not write.
    failed:
        Requests of which blocks could not be loaded.
    """

    loaded: Counter[int] = field(default_factory=Counter)
    saved: Counter[int] = field(default_factory=Counter)
    dropped: set[int] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.loaded or self.saved or self.failed)

    def merged(self, other: Report) -> Report:
        """Two ranks' together."""
        return Report(
            self.loaded + other.loaded,
            self.saved + other.saved,
            self.dropped | other.dropped,
            self.failed | other.failed,
        )
