"""What the real store did in place of the simulated one, and how that compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["CARBON_TOLERANCE", "LIVE_COLUMNS", "LiveRun"]

LIVE_COLUMNS = (
    "plan",
    "starts",
    "with other hits",
    "blocks read",
    "wrong",
    "written to SSD",
    "simulated",
    "read GB/s",
    "decisions",
    "otherwise",
    "carbon / replay",
    "same",
)

CARBON_TOLERANCE = 0.01
"""By which carbon may differ: a minute begun is charged whole in the replay, and not here."""


@dataclass(slots=True)
class LiveRun:
    """What the real store did, and how that compares.

    Attributes
    ----------
    plan:
        The plan.
    block_bytes:
        Bytes of a block here.
    starts:
        How often a request asked for its prefix.
    different:
        In how many of these DRAM or SSD found another number of blocks than in the simulation.
    blocks_by_tier:
        Blocks found in each, beyond those before it, by the real store.
    read_blocks, wrong_blocks:
        Read and compared, and those of them that were not as stored.
    read_s, store_s:
        Time spent reading; and storing, until all was on SSD.
    written_blocks:
        Written to SSD, and by the simulation.
    failures:
        What went wrong in a tier, by cause; and in the control loop.
    decisions, other_decisions:
        Of the daemon's control loop, and how many of these the replay made otherwise.
    carbon_ratio:
        Grams of the real tiers' sizes and traffic over those of the replay; None if the daemon's
        control loop did not run.
    """

    plan: str
    block_bytes: int
    starts: int = 0
    different: int = 0
    blocks_by_tier: dict[str, int] = field(default_factory=lambda: {"dram": 0, "ssd": 0})
    read_blocks: int = 0
    wrong_blocks: int = 0
    read_s: float = 0.0
    store_s: float = 0.0
    written_blocks: int = 0
    simulated_written_blocks: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    decisions: int = 0
    other_decisions: int = 0
    carbon_ratio: float | None = None

    @property
    def same(self) -> bool:
        """Whether the real store did as the simulated one, without a wrong byte."""
        written = self.written_blocks == self.simulated_written_blocks
        alike = self.different == self.wrong_blocks == self.other_decisions == 0
        carbon = self.carbon_ratio is None or abs(self.carbon_ratio - 1) <= CARBON_TOLERANCE
        return alike and written and carbon and not self.failures

    @property
    def read_bytes_per_s(self) -> float | None:
        """Bandwidth of reading; None if nothing was read."""
        return self.read_blocks * self.block_bytes / self.read_s if self.read_s else None

    def row(self) -> list[str]:
        """The same for a table, as `LIVE_COLUMNS` names it."""
        read = self.read_bytes_per_s
        return [
            self.plan,
            f"{self.starts:,}",
            f"{self.different:,}",
            f"{self.read_blocks:,}",
            f"{self.wrong_blocks:,}",
            f"{self.written_blocks:,}",
            f"{self.simulated_written_blocks:,}",
            "-" if read is None else f"{read / 1e9:.2f}",
            f"{self.decisions:,}" if self.decisions else "-",
            f"{self.other_decisions:,}" if self.decisions else "-",
            "-" if self.carbon_ratio is None else f"{self.carbon_ratio:.4f}",
            "yes" if self.same else "NO",
        ]

    def as_json(self) -> dict[str, Any]:
        """The entry of this run in ``live``."""
        return {
            "plan": self.plan,
            "block_bytes": self.block_bytes,
            "starts": self.starts,
            "starts_with_other_hits": self.different,
            "hit_blocks_by_tier": self.blocks_by_tier,
            "read_blocks": self.read_blocks,
            "wrong_blocks": self.wrong_blocks,
            "read_bytes_per_s": self.read_bytes_per_s,
            "store_s": self.store_s,
            "ssd_written_blocks": self.written_blocks,
            "ssd_written_blocks_simulated": self.simulated_written_blocks,
            "failures": self.failures,
            "decisions": self.decisions,
            "decisions_otherwise": self.other_decisions,
            "carbon_ratio": self.carbon_ratio,
            "same_as_simulated": self.same,
        }
