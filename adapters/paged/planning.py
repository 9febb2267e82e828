"""The scheduler's side of the connector: what to load and what to save, step by step.

It runs in the engine's scheduler, so it only asks short questions of the daemon, each with a
deadline; room for saves is asked for beside the steps, and bytes are moved by the workers. Whatever
the daemon fails to do is a miss, or a save less: nothing that goes wrong here ends the engine.

Blocks are saved as steps fill them. The store takes what follows a prefix only once that prefix is
there, so what found no room while others, or an earlier step's saves, were being written is offered
again with later blocks, and for the last time when the request has finished.

One block of the store is ``per_block`` of the engine's: a prefix that the engine has may end within
one of the store's, and is then completed from it.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from greencache.adapters.paged.jobs import Load, Report, Save, Step
from greencache.adapters.paged.known import EngineRequest, Known
from greencache.adapters.paged.names import block_keys
from greencache.adapters.paged.reserving import Reserving
from greencache.adapters.paged.statistics import Counts
from greencache.client import Client, Lease, Reservation, Seen

__all__ = ["Planning", "Shape"]


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


class _Wanted(NamedTuple):
    """Blocks that are to be saved if there is room: the engine's, from the start of a prompt."""

    known: Known
    block_ids: Sequence[int]


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
        self._known: dict[str, Known] = {}
        self._numbers = itertools.count(1)
        self._step = Step()
        # What a step computes behind a synchronous load may be no good: workers drop what is saved
        # in that same step then. So there, room is taken at once.
        self._rooms: Reserving[_Wanted] = Reserving(client, counts, asynchronous=shape.asynchronous)
        self._loading: dict[int, Lease] = {}
        """Leases that workers read."""
        self._loaded: Counter[int] = Counter()
        self._saved: Counter[int] = Counter()
        """Ranks that are done with a lease, with a reservation."""
        self._saving: dict[int, tuple[Known, Reservation]] = {}
        """What workers write, and for whom."""
        self._dropped: set[int] = set()
        """Reservations that a rank did not write."""
        self._silent: dict[str, Known] = {}
        """Requests without a first token."""
        self._leaving: set[str] = set()
        """Requests that have finished, whose last blocks are to be offered after their saves."""
        self._seen_since: list[Seen] = []

    # Requests as they come.

    def arrived(self, request: EngineRequest) -> None:
        """Note a request when it is new."""
        self._of(request)

    def _of(self, request: EngineRequest) -> Known:
        known = self._known.get(request.request_id)
        if known is None:
            known = self._known[request.request_id] = Known(
                request, next(self._numbers), self._clock()
            )
            self._silent[request.request_id] = known
            self._seen_since.append(self._seen(known, ended=False))
        return known

    def match(self, request: EngineRequest, held_tokens: int) -> int:
        """Tokens beyond those that the engine has which can be loaded; they are kept for it."""
        known = self._of(request)
        if known.failed:
            self._let_go(known)
            return 0
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

    def _acquire(self, known: Known, held_tokens: int) -> None:
        block_tokens = self._shape.block_tokens
        keys = self._keys(known, known.request.num_tokens // block_tokens)
        first, known.asked = not known.asked, True
        if first:
            known.held_tokens = held_tokens
            self._counts.add("lookup_tokens", known.request.num_tokens)
        if not keys:
            return
        try:
            lease = self._client.acquire(
                keys, held=held_tokens // block_tokens, learn=first, request=known.number
            )
        except Exception as fault:
            self._counts.failed("failed_lookups", fault)
            return
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
        known.filled = known.offered = end // self._shape.per_block
        known.missing = False
        if request.num_preemptions == 0:  # as vLLM counts
            self._counts.add("hit_tokens", loaded_tokens)
            known.hits = self._hits(lease, known.matched_from, loaded_tokens)

    def _hits(self, lease: Lease, held_tokens: int, loaded_tokens: int) -> dict[str, int]:
        """Loaded tokens by the tier that had them."""
        size, hits = self._shape.block_tokens, {}
        above, left = held_tokens % size, loaded_tokens  # the engine has these of the first block
        for tier, blocks in lease.found.items():
            hits[tier] = min(max(blocks * size - above, 0), left)
            above, left = max(above - blocks * size, 0), left - hits[tier]
        return hits

    def _let_go(self, known: Known) -> None:
        lease, known.lease = known.lease, None
        if lease is not None:
            self._release(lease)

    def _release(self, lease: Lease) -> None:
        try:
            if not lease.ended:
                lease.release()
        except Exception as fault:
            self._counts.failed("failed_lookups", fault)

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
        for known in {id(known): known for known, _ in self._saving.values()}.values():
            self._note_preemption(known)
        for name, tokens in computed_tokens.items():
            planned = self._known.get(name)
            if planned is not None:
                self._plan(planned, tokens, block_ids)
        self._begin_saves()
        step, self._step = self._step, Step()
        return step

    def _plan(self, known: Known, tokens: int, block_ids: Callable[[str], Sequence[int]]) -> None:
        request = known.request
        filled = min(tokens // self._shape.engine_tokens, len(request.block_hashes))
        known.filled = filled // self._shape.per_block
        if known.filled > known.offered and not (known.saving or known.asking):
            self._want(known, list(block_ids(request.request_id)))

    def _want(self, known: Known, block_ids: Sequence[int]) -> None:
        """Ask for room for what is filled and not stored."""
        known.offered, known.missing, known.asking = known.filled, True, True
        known.preemptions = known.request.num_preemptions
        self._rooms.ask(_Wanted(known, block_ids), self._keys(known, known.filled))

    def _begin_saves(self) -> None:
        """Save what has found room, as far as it did."""
        for (known, block_ids), room in self._rooms.taken():
            known.asking = False
            if room is not None and len(room):
                self._begin_save(known, room, block_ids)
            if known.request.request_id in self._leaving and not (
                known.saving and known.last_blocks
            ):
                self._leave(known)

    def _begin_save(self, known: Known, room: Reservation, block_ids: Sequence[int]) -> None:
        if known.request.num_preemptions > known.preemptions:
            self._end(room, written=False)  # its blocks are others' by now
            return
        known.missing = room.first + len(room) < known.offered
        if not known.missing and known.filled <= known.offered:
            known.last_blocks = ()
        begin = room.first * self._shape.per_block
        end = begin + len(room) * self._shape.per_block
        ids = list(block_ids[begin:end])
        self._step.saves.append(Save(known.request.request_id, room.number, ids))
        known.saving.add(room.number)
        self._saving[room.number] = known, room

    def _note_preemption(self, known: Known) -> None:
        """Have workers end what they write from blocks that their request has lost."""
        if known.saving and known.request.num_preemptions > known.preemptions:
            self._step.wait += known.saving
            known.saving.clear()

    # What workers report.

    def stepped(self) -> None:
        """Note which requests have their first token, as a step's outcome is known."""
        for name, known in list(self._silent.items()):
            if known.request.num_output_tokens > 0:
                known.first_token_s = self._clock()
                del self._silent[name]

    def reported(self, report: Report) -> None:
        """Take note of what workers did."""
        self._dropped |= report.dropped
        for number in self._done(self._loaded, report.loaded):
            self._release(self._loading.pop(number))
        for number in self._done(self._saved, report.saved):
            known, room = self._saving.pop(number)
            known.saving.discard(number)
            self._end(room, written=number not in self._dropped)
            self._dropped.discard(number)
            if known.request.request_id in self._leaving and not (known.saving or known.asking):
                self._leave(known)
        for name in report.failed:
            failed = self._known.get(name)
            if failed is not None:
                failed.failed = True
                failed.filled = failed.offered = 0  # what failed is computed, and stored, again

    def _end(self, room: Reservation, *, written: bool) -> None:
        """No rank writes any more. What one has not written, nobody is to find."""
        try:
            if written:
                room.end(None)  # each rank has committed its part
            else:
                room.abort()
        except Exception as fault:
            self._counts.failed("failed_saves", fault)

    def _done(self, ranks: Counter[int], more: Counter[int]) -> list[int]:
        """What all ranks are done with."""
        ranks.update(more)
        done = [number for number in more if ranks[number] >= self._shape.ranks]
        for number in done:
            del ranks[number]
        return done

    def finished(self, request: EngineRequest, block_ids: Sequence[int]) -> bool:
        """Forget a request; whether its blocks have to be kept until workers say it is saved."""
        known = self._known.pop(request.request_id, None)
        self._silent.pop(request.request_id, None)
        if known is None:
            return False
        self._let_go(known)
        self._seen_since.append(self._seen(known, ended=True))
        self._note_preemption(known)
        per_block = self._shape.per_block
        known.filled = min(known.filled, len(block_ids) // per_block)
        if known.missing or known.filled > known.offered:
            known.last_blocks = list(block_ids[: known.filled * per_block])
        if known.saving or known.asking:
            self._leaving.add(request.request_id)
            return True
        return self._leave(known)

    def _leave(self, known: Known) -> bool:
        """Offer a finished request's last blocks; whether workers will say that it is saved."""
        name = known.request.request_id
        if known.last_blocks:
            block_ids, known.last_blocks = known.last_blocks, ()
            self._want(known, block_ids)
            self._leaving.add(name)
            return True
        if name in self._leaving:
            self._leaving.discard(name)
            self._step.finished.append(name)
            return True
        return False

    def _seen(self, known: Known, *, ended: bool) -> Seen:
        request, now_s = known.request, self._clock()
        outputs, first_s = request.num_output_tokens, known.first_token_s
        if first_s is None and outputs:
            first_s = now_s
        return Seen(
            arrived_s=known.arrived_s,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=outputs,
            ttft_s=None if first_s is None else first_s - known.arrived_s,
            tpot_s=(now_s - first_s) / (outputs - 1)
            if first_s is not None and outputs > 1
            else None,
            hit_tokens={"hbm": known.held_tokens, **known.hits} if ended else {},
            ended=ended,
            request=known.number,
        )

    def take_seen(self) -> list[Seen]:
        """Requests that came, and those that ended, since this was asked last."""
        seen, self._seen_since = self._seen_since, []
        return seen

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens to be computed before requests have their first token; for any thread."""
        return sum(known.left_tokens for known in list(self._silent.values()))

    @property
    def idle(self) -> bool:
        """Whether workers have said of everything that it has ended."""
        return self._rooms.idle and not (
            self._saving or self._loading or self._leaving or self._step.finished
        )

    def close(self) -> None:
        """Ask the daemon for no more room."""
        self._rooms.close()

    def _keys(self, known: Known, blocks: int) -> list[bytes]:
        """Keys of leading blocks: as many as are asked for, or as the engine has hashes for."""
        hashes, per_block = known.request.block_hashes, self._shape.per_block
        last = len(known.keys) * per_block - 1
        if known.keys and (len(hashes) <= last or bytes(hashes[last]) != known.last_hash):
            known.keys.clear()  # tokens were taken back: as hashes are chained, the last one tells
        if len(known.keys) < blocks:
            known.keys += block_keys(
                self._shape.namespace,
                hashes[: blocks * per_block],
                per_block,
                first=len(known.keys),
            )
            if known.keys:
                known.last_hash = bytes(hashes[len(known.keys) * per_block - 1])
        return known.keys[:blocks]
