"""The scheduler's side of the connector: what to load and what to save, step by step.

It runs in the engine's scheduler, so it only asks short questions of the daemon, each with a
deadline; bytes are moved by the workers. Whatever the daemon fails to do is a miss, or a save less.

One block of the store is ``per_block`` of the engine's: a prefix that the engine has may end within
one of the store's, and is then completed from it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from greencache.adapters.paged.jobs import Load, Report, Save, Step
from greencache.adapters.paged.names import block_keys
from greencache.adapters.paged.statistics import Counts
from greencache.client import Client, Lease, Reservation, Seen
from greencache.errors import GreenCacheError

__all__ = ["EngineRequest", "Planning", "Shape"]


class EngineRequest(Protocol):
    """What is used of vLLM's ``Request``."""

    request_id: str
    block_hashes: Sequence[Any]
    num_tokens: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_preemptions: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How the engine and the store divide a prompt.

    Attributes
    ----------
    engine_tokens:
        Tokens of one of the engine's blocks.
    per_block:
        Of those in one of the store's.
    ranks:
        Workers, each with a shard of every block.
    namespace:
        As of `greencache.adapters.paged.names`.
    asynchronous:
        Whether loads run beside the engine's steps; otherwise a step waits for them.
    """

    engine_tokens: int
    per_block: int
    ranks: int
    namespace: bytes
    asynchronous: bool = True

    @property
    def block_tokens(self) -> int:
        """Tokens of one of the store's blocks."""
        return self.engine_tokens * self.per_block


@dataclass(slots=True)
class _Known:
    """What is known of a request."""

    request: EngineRequest
    arrived_s: float
    keys: list[bytes] = field(default_factory=list)
    asked: bool = False
    held_tokens: int = 0
    """Tokens that the engine had when it asked first."""
    lease: Lease | None = None
    found: Mapping[str, int] = field(default_factory=dict)
    matched_from: int = 0
    """Tokens that it had when it asked last."""
    saved: int = 0
    """Leading blocks that are stored, or were offered to be."""
    saving: dict[int, Reservation] = field(default_factory=dict)
    preemptions: int = 0
    first_token_s: float | None = None


class Planning:
    """Plans loads and saves of one engine.

    Parameters
    ----------
    client:
        Of the daemon.
    shape:
        How prompts are divided.
    counts:
        What is counted.
    clock:
        The host's monotonic clock.
    """

    def __init__(
        self,
        client: Client,
        shape: Shape,
        counts: Counts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._shape, self._counts, self._clock = client, shape, counts, clock
        self._known: dict[str, _Known] = {}
        self._step = Step()
        self._loading: dict[int, Lease] = {}
        """Leases that workers read."""
        self._loaded: Counter[int] = Counter()
        self._saved: Counter[int] = Counter()
        """Ranks that are done with a lease, with a reservation."""
        self._saving_of: dict[int, _Known] = {}
        self._seen_since: list[Seen] = []

    # Requests as they come.

    def arrived(self, request: EngineRequest) -> None:
        """Note a request when it is new."""
        self._of(request)

    def _of(self, request: EngineRequest) -> _Known:
        known = self._known.get(request.request_id)
        if known is None:
            known = self._known[request.request_id] = _Known(request, self._clock())
        return known

    def match(self, request: EngineRequest, held_tokens: int) -> int:
        """Tokens beyond those that the engine has which can be loaded; they are kept for it."""
        known = self._of(request)
        if known.lease is None:
            self._acquire(known, held_tokens)
        blocks = 0 if known.lease is None else known.lease.blocks
        if not self._shape.asynchronous:  # a step computes one token at the least
            blocks = min(blocks, (request.num_tokens - 1) // self._shape.block_tokens)
        tokens = blocks * self._shape.block_tokens - held_tokens
        if tokens <= 0:
            self._let_go(known)
            return 0
        known.matched_from = held_tokens
        return tokens

    def _acquire(self, known: _Known, held_tokens: int) -> None:
        block_tokens = self._shape.block_tokens
        keys = self._keys(known, known.request.num_tokens // block_tokens)
        first, known.asked = not known.asked, True
        if first:
            known.held_tokens = held_tokens
            self._counts.add("lookup_tokens", known.request.num_tokens)
        if not keys:
            return
        try:
            lease = self._client.acquire(keys, held=held_tokens // block_tokens, learn=first)
        except GreenCacheError as fault:
            self._counts.failed("lookup", fault)
            return
        known.found = lease.found
        known.lease = lease

    def allocated(
        self, request: EngineRequest, block_ids: Sequence[int], loaded_tokens: int
    ) -> None:
        """Plan the load of what was matched, now that the engine has blocks for it; or drop it."""
        known = self._of(request)
        lease = known.lease
        if lease is None or loaded_tokens <= 0:
            self._let_go(known)
            return
        size = self._shape.engine_tokens
        begin, end = known.matched_from // size, (known.matched_from + loaded_tokens) // size
        ids = list(block_ids[begin:end])
        self._step.loads.append(Load(request.request_id, lease.number, begin, ids))
        known.lease, self._loading[lease.number] = None, lease
        known.saved = max(known.saved, end // self._shape.per_block)
        self._counts.add("hit_tokens", loaded_tokens)

    def _let_go(self, known: _Known) -> None:
        lease, known.lease = known.lease, None
        if lease is not None and not lease.ended:
            lease.release()

    # Steps.

    def step(
        self, computed_tokens: Mapping[str, int], block_ids: Callable[[str], Sequence[int]]
    ) -> Step:
        """What workers do in the step that is about to run.

        Parameters
        ----------
        computed_tokens:
            For each request in it, the tokens that are computed when it is over.
        block_ids:
            The engine's blocks of a request, from the start of its prompt.
        """
        for name, tokens in computed_tokens.items():
            known = self._known.get(name)
            if known is not None:
                if known.first_token_s is None and known.request.num_output_tokens > 0:
                    known.first_token_s = self._clock()
                self._plan_save(known, tokens, block_ids)
        self._step.wait = self._taken_away()
        step, self._step = self._step, Step()
        return step

    def _plan_save(
        self, known: _Known, tokens: int, block_ids: Callable[[str], Sequence[int]]
    ) -> None:
        """Save blocks that the step fills."""
        filled = min(tokens // self._shape.engine_tokens, len(known.request.block_hashes))
        blocks = filled // self._shape.per_block
        if blocks <= known.saved:
            return
        known.saved = blocks
        try:
            room = self._client.reserve(self._keys(known, blocks))
        except GreenCacheError as fault:
            self._counts.failed("save", fault)
            return
        if not len(room):
            return
        begin = room.first * self._shape.per_block
        end = begin + len(room) * self._shape.per_block
        ids = list(block_ids(known.request.request_id)[begin:end])
        self._step.saves.append(Save(known.request.request_id, room.number, ids))
        known.saving[room.number] = room
        self._saving_of[room.number] = known

    def _taken_away(self) -> list[int]:
        """Reservations that are still being written from blocks which their request has lost."""
        lost: list[int] = []
        for known in {id(known): known for known in self._saving_of.values()}.values():
            if known.request.num_preemptions > known.preemptions:
                lost += known.saving
            known.preemptions = known.request.num_preemptions
        return lost

    # What workers report.

    def reported(self, report: Report) -> None:
        """Take note of what workers did."""
        for number in self._done(self._loaded, report.loaded):
            self._loading.pop(number).release()
        for number in self._done(self._saved, report.saved):
            # Each rank has committed or aborted its part.
            self._saving_of.pop(number).saving.pop(number).end(None)
        for name in report.failed:
            known = self._known.get(name)
            if known is not None:
                known.saved = 0  # what failed is computed, and can be stored, again

    def _done(self, ranks: Counter[int], more: Counter[int]) -> list[int]:
        """What all ranks are done with."""
        ranks.update(more)
        done = [number for number in more if ranks[number] >= self._shape.ranks]
        for number in done:
            del ranks[number]
        return done

    def finished(self, request: EngineRequest) -> bool:
        """Forget a request; whether its blocks have to be kept until workers say it is saved."""
        known = self._known.pop(request.request_id, None)
        if known is None:
            return False
        self._let_go(known)
        self._seen_since.append(self._seen(known))
        if not known.saving:
            return False
        self._step.finished.append(request.request_id)
        return True

    def _seen(self, known: _Known) -> Seen:
        request, now_s = known.request, self._clock()
        outputs, first_s = request.num_output_tokens, known.first_token_s
        if first_s is None and outputs:
            first_s = now_s
        hits = {"hbm": known.held_tokens}
        for tier, blocks in known.found.items():
            hits[tier] = blocks * self._shape.block_tokens
        return Seen(
            arrived_s=known.arrived_s,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=outputs,
            ttft_s=None if first_s is None else first_s - known.arrived_s,
            tpot_s=(now_s - first_s) / (outputs - 1)
            if first_s is not None and outputs > 1
            else None,
            hit_tokens=hits,
        )

    def take_seen(self) -> list[Seen]:
        """Requests that ended since this was asked last."""
        seen, self._seen_since = self._seen_since, []
        return seen

    @property
    def idle(self) -> bool:
        """Whether workers have said of everything that it has ended."""
        return not (self._saving_of or self._loading)

    def _keys(self, known: _Known, blocks: int) -> list[bytes]:
        """Keys of leading blocks: as many as are asked for, or as the engine has hashes for."""
        if len(known.keys) < blocks:
            hashes: Sequence[Any] = known.request.block_hashes
            known.keys += block_keys(
                self._shape.namespace, hashes, self._shape.per_block, first=len(known.keys)
            )
        return known.keys[:blocks]
