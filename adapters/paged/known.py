"""A request as the scheduler's side of the connector knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from greencache.client import Lease

__all__ = ["EngineRequest", "Known"]


class EngineRequest(Protocol):
    """What is used of vLLM's ``Request``."""

    @property
    def request_id(self) -> str:
        """Its name."""

    @property
    def block_hashes(self) -> Sequence[bytes]:
        """Of its full blocks, chained."""

    @property
    def num_tokens(self) -> int:
        """Of the prompt and what was said."""

    @property
    def num_prompt_tokens(self) -> int:
        """Of the prompt."""

    @property
    def num_output_tokens(self) -> int:
        """Of what was said."""

    @property
    def num_preemptions(self) -> int:
        """How often its blocks were taken away."""


@dataclass(slots=True)
class Known:
    """What is known of a request."""

    request: EngineRequest
    number: int
    """By which the daemon's controller is told of it."""
    arrived_s: float
    keys: list[bytes] = field(default_factory=list)
    """Of its leading blocks, as far as they were needed."""
    last_hash: bytes = b""
    """The engine's, of which the last key was made."""
    asked: bool = False
    held_tokens: int = 0
    """Tokens that the engine had when it asked first."""
    lease: Lease | None = None
    failed: bool = False
    """Whether a load failed. What it lacks is computed then, as another try may take as long."""
    hits: Mapping[str, int] = field(default_factory=dict)
    """Tokens that each tier added to these, as far as they were to be loaded."""
    matched_from: int = 0
    """Tokens that it had when it asked last."""
    filled: int = 0
    """Leading blocks that are computed when the last planned step is over."""
    offered: int = 0
    """Leading blocks that are stored, or were offered to be."""
    missing: bool = False
    """Whether some of them found no room, as far as is known."""
    asking: bool = False
    """Whether room is being asked for."""
    last_blocks: Sequence[int] = ()
    """The engine's blocks, when it has finished and some are to be offered again."""
    saving: set[int] = field(default_factory=set)
    """Reservations that are written from blocks which it has."""
    preemptions: int = 0
    """How often it had been preempted when room was asked for the first of them."""
    first_token_s: float | None = None

    @property
    def left_tokens(self) -> int:
        """Prompt tokens that nobody has, as far as that is known."""
        hits = self.held_tokens + sum(self.hits.values())
        return max(self.request.num_prompt_tokens - hits, 0)
