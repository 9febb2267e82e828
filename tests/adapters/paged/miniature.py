"""An engine in numpy, small enough to follow, that calls connectors in vLLM's order.

KV of a token depends on all KV before it, as it stands in memory, so whatever is loaded wrongly
shows in what is said. What vLLM asserts of connectors is asserted here, too.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from greencache.adapters.paged.jobs import Report, Step
from greencache.adapters.paged.mirror import Mirror, PoolState
from greencache.adapters.paged.pages import HostPages
from greencache.adapters.paged.planning import Planning, Shape
from greencache.adapters.paged.statistics import Counts
from greencache.adapters.paged.transfers import Transfers
from greencache.client import Client
from greencache.client.pinning import Pinning

__all__ = ["MiniatureEngine", "Request", "said"]

BLOCK = 4
"""Tokens of one of the engine's blocks."""
LAYERS = 2
TOKEN_BYTES = 8
"""Of a token in a layer on a rank."""
BUDGET = 24
"""Tokens computed in a step."""


def _kv(context: bytes, token: int, ranks: int, lora: str = "") -> bytes:
    """KV of a token on all ranks and layers."""
    text = context + token.to_bytes(4, "little") + lora.encode()
    return hashlib.shake_128(text).digest(ranks * LAYERS * TOKEN_BYTES)


def _next(kv: bytes) -> int:
    return int.from_bytes(kv[:2], "little") % 997


def said(request: Request, ranks: int = 1) -> list[int]:
    """What follows a prompt, computed without any engine."""
    prompt = request.tokens[: request.num_prompt_tokens]
    tokens, context = list(prompt), b""
    while not request.ends(tokens[len(prompt) :]):
        token = tokens[len(context) // (ranks * LAYERS * TOKEN_BYTES)]
        kv = _kv(context, token, ranks, request.lora)
        context += kv
        if len(context) == len(tokens) * len(kv):
            tokens.append(_next(kv))
    return tokens[len(prompt) :]


class Request:
    """As vLLM's, as far as it is used."""

    def __init__(
        self,
        name: str,
        prompt: Sequence[int],
        max_tokens: int = 3,
        salt: bytes = b"",
        stop: int | None = None,
        lora: str = "",
    ) -> None:
        self.request_id, self.max_tokens, self._stop = name, max_tokens, stop
        self.lora = lora
        """Name of the adapter that it is computed with; in every block's hash, as vLLM has it."""
        self.tokens: list[int] = []
        self.block_hashes: list[bytes] = []
        self._last = hashlib.sha256(salt).digest()
        self.num_prompt_tokens = len(prompt)
        self.num_preemptions = 0
        self.append(prompt)
        self.state = "waiting"
        self.computed = 0
        self.in_flight = 0
        """Outputs of steps that have run, of which the scheduler has not heard."""
        self.block_ids: list[int] = []

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def outputs(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]

    def ends(self, outputs: Sequence[int]) -> bool:
        """Whether nothing follows these; what is divisible by its stop number ends it, too."""
        stopped = self._stop is not None and any(each % self._stop == 0 for each in outputs)
        return stopped or len(outputs) == self.max_tokens

    def append(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        for begin in range(len(self.block_hashes) * BLOCK, len(self.tokens) - BLOCK + 1, BLOCK):
            text = self._last + f"{self.tokens[begin : begin + BLOCK]}{self.lora}".encode()
            self._last = hashlib.sha256(text).digest()
            self.block_hashes.append(self._last)


@dataclass
class _Work:
    """Of one request in a step."""

    request: Request
    first: int
    count: int
    block_ids: list[int]


@dataclass
class _Output:
    """What a step gave, of all ranks together."""

    work: list[_Work]
    tokens: dict[str, int] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    received: set[str] = field(default_factory=set)
    invalid: set[int] = field(default_factory=set)
    report: Report = field(default_factory=Report)


class MiniatureEngine:
    """An engine.

    Parameters
    ----------
    socket:
        The daemon's.
    ranks:
        Workers; all in this process.
    asynchronous:
        How loads run.
    ahead:
        Whether a step is planned before the one before it was heard of.
    drafting:
        Whether saves begin only after the worker's report was taken, as with drafts of speculation.
    blocks:
        Of KV memory.
    per_block:
        Engine blocks in one of the store's.
    namespace:
        Of keys.
    pinning:
        Pins for the workers.
    """

    def __init__(
        self,
        socket: Path,
        *,
        ranks: int = 1,
        asynchronous: bool = True,
        ahead: bool = False,
        drafting: bool = False,
        blocks: int = 128,
        per_block: int = 2,
        namespace: bytes = b"a namespace 16 B",
        deadline_s: float = 20.0,
        pinning: Pinning | None = None,
    ) -> None:
        self.ranks, self.asynchronous, self.ahead, self.drafting = (
            ranks,
            asynchronous,
            ahead,
            drafting,
        )
        page_bytes = BLOCK * TOKEN_BYTES
        self.kv = np.zeros((ranks, LAYERS, blocks, page_bytes), np.uint8)
        block_bytes = ranks * LAYERS * per_block * page_bytes
        group = secrets.token_bytes(16)

        def client(shard: int | None) -> Client:
            return Client(
                block_bytes,
                socket=socket,
                shards=ranks,
                shard=shard,
                group=group,
                timeout_s=deadline_s,
                pinning=None if shard is None else pinning,
            )

        self.counts = Counts()
        self.clients = [client(None), *(client(rank) for rank in range(ranks))]
        shape = Shape(BLOCK, per_block, ranks, namespace, asynchronous)
        self.planning = Planning(self.clients[0], shape, self.counts)
        self.workers = [
            Transfers(
                self.clients[1 + rank],
                HostPages(list(self.kv[rank]), per_block),
                per_block,
                asynchronous=asynchronous,
                counts=self.counts,
            )
            for rank in range(ranks)
        ]
        self.mirror = Mirror(
            self._state, ranks * LAYERS * page_bytes, lambda: self.planning.waiting_tokens
        )
        self.planned: Callable[[Step], None] = lambda step: None
        """Called after a step was planned and before it runs."""
        self.requests: dict[str, Request] = {}
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.preemptions = 0
        self.external_tokens = 0
        self._free: deque[int] = deque(range(blocks))
        self._blocks = blocks
        self._references: Counter[int] = Counter()
        self._cached: dict[bytes, int] = {}
        self._deferred: list[tuple[int, list[int]]] = []
        self._steps = self._heard = 0
        self._received: set[str] = set()
        self._failed: set[str] = set()
        self._counting: dict[str, Counter[str]] = {"sent": Counter(), "received": Counter()}
        self._worker_tokens: dict[str, list[int]] = {}
        self._outputs: deque[_Output] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.planning.close()
        for worker in self.workers:
            worker.close()
        for client in self.clients:
            client.close()

    # For tests.

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.requests[request.request_id] = request
            self.waiting.append(request)
            self.planning.arrived(request)

    def generate(self, *requests: Request) -> list[list[int]]:
        """Run requests to their end; what was said."""
        self.add(*requests)
        self.settle()
        return [request.outputs for request in requests]

    def settle(self, within_s: float = 60.0) -> None:
        """Run until nothing is left to do."""
        end_s = time.monotonic() + within_s
        while self.requests or self._outputs or not self.planning.idle:
            assert time.monotonic() < end_s, "the engine is stalled"
            self.step()
        assert len(self._free) == self._blocks, "blocks were lost"

    def forget(self) -> None:
        """Forget all prefixes in its own memory, and the memory."""
        assert not self.requests
        self._cached.clear()
        self.kv[:] = 0xEE

    def abort(self, request: Request) -> None:
        """Its client has gone."""
        loading = request.state == "loading" and request.request_id not in self._received
        self._received.discard(request.request_id)
        self._failed.discard(request.request_id)
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._finish(request, keep=loading)

    def step(self) -> None:
        """Plan a step, run it, hear of it or of the one before."""
        work, step = self._schedule()
        self.planned(step)
        self._outputs.append(self._execute(work, pickle.dumps(step)))
        if not work:
            time.sleep(0.0005)  # as vLLM does when there is nothing to compute
        while len(self._outputs) > (1 if self.ahead and work else 0):
            self._hear(self._outputs.popleft())

    def _state(self) -> PoolState:
        return PoolState(self._blocks, len(self._cached), self._blocks - len(self._free))

    # The scheduler.

    def _schedule(self) -> tuple[list[_Work], Step]:
        budget, work, preempted = BUDGET, list[_Work](), False
        for request in list(self.running):
            if request.state != "running":
                continue
            count = min(request.num_tokens + request.in_flight - request.computed, budget)
            if request.num_output_tokens + request.in_flight >= request.max_tokens or count <= 0:
                continue
            while not self._allocate(request, request.computed + count):
                self._preempt(self.running[-1])
                preempted = True
                if request.state != "running":
                    break
            if request.state == "running":
                budget -= count
                work.append(self._plan(request, count))
        # Those that have blocks first: others may be waiting for these.
        for request in sorted(self.waiting, key=lambda each: not each.block_ids):
            if preempted or budget <= 0:
                break
            if request.in_flight or (request.state == "loading" and not self._loaded(request)):
                continue
            external = self._admit(request, budget)
            if external is None:
                break
            if request.state == "loading":
                continue
            self.waiting.remove(request)
            self.running.append(request)
            request.state = "running"
            self._worker_tokens[request.request_id] = list(request.tokens)
            count = min(request.num_tokens - request.computed, budget)
            budget -= count
            work.append(self._plan(request, count))
        after = {each.request.request_id: each.first + each.count for each in work}
        self.mirror.planned()
        step = self.planning.step(after, lambda name: self.requests[name].block_ids)
        for each in work:
            each.request.computed += each.count
            if each.request.computed >= each.request.num_tokens + each.request.in_flight:
                each.request.in_flight += 1
        self._steps += bool(work)
        return work, step

    def _plan(self, request: Request, count: int) -> _Work:
        self._cache(request, request.computed + count)
        return _Work(request, request.computed, count, list(request.block_ids))

    def _admit(self, request: Request, budget: int) -> int | None:
        """Find what can be had of its prompt, and blocks for it; None if there are none."""
        held: list[int] = []
        external = 0
        if request.computed == 0:
            assert not request.block_ids
            for name in request.block_hashes[: (request.num_tokens - 1) // BLOCK]:
                if name not in self._cached:
                    break
                held.append(self._cached[name])
            external = self.planning.match(request, len(held) * BLOCK)
            total = len(held) * BLOCK + external
            assert total <= request.num_tokens - (0 if self.asynchronous else 1)
        else:
            total = request.computed
        asynchronous = self.asynchronous and external > 0
        count = 0 if asynchronous else min(request.num_tokens - total, budget)
        for block in held:
            self._take(block)
        request.block_ids += held
        if asynchronous and self._wanted(request) + self._promised(request) > len(self._free):
            self._release(request)
            return None
        if not self._allocate(request, total + count):
            if request.computed == 0:
                self._release(request)
            return None
        self.planning.allocated(request, list(request.block_ids), external)
        if request.num_preemptions == 0:
            self.external_tokens += external
        request.computed = total
        if asynchronous:
            request.state = "loading"
        return external

    def _wanted(self, request: Request) -> int:
        """Blocks that it lacks to compute all that is known of it."""
        return math.ceil(request.num_tokens / BLOCK) - len(request.block_ids)

    def _promised(self, request: Request) -> int:
        """Blocks that others lack which have some: were they all to wait, none would end."""
        others = [each for each in self.requests.values() if each is not request]
        return sum(self._wanted(each) for each in others if each.block_ids)

    def _loaded(self, request: Request) -> bool:
        name = request.request_id
        if name not in self._received:
            return False
        self._received.remove(name)
        request.state = "waiting"
        if name in self._failed and request.computed == 0:
            self._release(request)
        elif name not in self._failed:
            self._cache(request, request.computed)
        self._failed.discard(name)
        if request.computed == request.num_tokens:
            request.computed -= 1
        return True

    def _cache(self, request: Request, computed: int) -> None:
        for name, block in zip(
            request.block_hashes[: computed // BLOCK], request.block_ids, strict=False
        ):
            self._cached.setdefault(name, block)

    def _allocate(self, request: Request, tokens: int) -> bool:
        wanted = math.ceil(tokens / BLOCK) - len(request.block_ids)
        if wanted > len(self._free):
            return False
        for _ in range(wanted):
            block = self._free[0]
            self._cached = {name: each for name, each in self._cached.items() if each != block}
            self._take(block)
            request.block_ids.append(block)
        return True

    def _take(self, block: int) -> None:
        if self._references[block] == 0:
            self._free.remove(block)
        self._references[block] += 1

    def _release(self, request: Request) -> None:
        """Free its blocks, when no step that has been planned can write to them any more."""
        blocks, request.block_ids = request.block_ids, []
        self._deferred.append((self._steps, blocks))
        self._drain()

    def _drain(self) -> None:
        while self._deferred and self._deferred[0][0] <= self._heard:
            for block in self._deferred.pop(0)[1]:
                self._references[block] -= 1
                if self._references[block] == 0:
                    self._free.append(block)

    def _preempt(self, request: Request) -> None:
        self.preemptions += 1
        self._release(request)
        self.running.remove(request)
        self.waiting.appendleft(request)
        request.state, request.computed = "waiting", 0
        request.num_preemptions += 1

    def _finish(self, request: Request, *, keep: bool = False) -> None:
        request.state = "finished"
        computed = request.block_ids[: math.ceil(request.computed / BLOCK)]
        if not self.planning.finished(request, computed) and not keep:
            self._forget(request)

    def _forget(self, request: Request) -> None:
        self._release(request)
        del self.requests[request.request_id]

    # The workers.

    def _execute(self, work: list[_Work], message: bytes) -> _Output:
        output = _Output(work)
        steps: list[Step] = [pickle.loads(message) for _ in self.workers]
        for worker, step in zip(self.workers, steps, strict=True):
            worker.before(step)
        sync = not self.asynchronous and bool(steps[0].loads)
        if sync:
            self._begin_loads(steps)
        for each in work:
            self._forward(each, output)
        if not sync:
            self._begin_loads(steps)
        if not self.drafting:
            self._begin_saves(steps)
        for worker in self.workers:
            sent, received = worker.ended()
            output.sent |= self._of_all("sent", sent)
            output.received |= self._of_all("received", received)
            output.invalid |= worker.failed_block_ids()
            output.report = output.report.merged(worker.report())
        if self.drafting:
            self._begin_saves(steps)
        return output

    def _begin_loads(self, steps: list[Step]) -> None:
        for worker, step in zip(self.workers, steps, strict=True):
            worker.load(step.loads)

    def _begin_saves(self, steps: list[Step]) -> None:
        for worker, step in zip(self.workers, steps, strict=True):
            worker.save(step.saves, step.finished)

    def _of_all(self, what: str, names: set[str]) -> set[str]:
        """Those of which all ranks have said so."""
        counting = self._counting[what]
        counting.update(names)
        whole = {name for name in names if counting[name] == self.ranks}
        for name in whole:
            del counting[name]
        return whole

    def _forward(self, each: _Work, output: _Output) -> None:
        tokens = self._worker_tokens[each.request.request_id]
        for place in range(each.first, each.first + each.count):
            context = self._context(each.block_ids, place)
            kv = _kv(context, tokens[place], self.ranks, each.request.lora)
            self._write(each.block_ids, place, kv)
            if place == len(tokens) - 1:
                tokens.append(_next(kv))
                output.tokens[each.request.request_id] = tokens[-1]

    def _context(self, block_ids: list[int], length: int) -> bytes:
        """KV of all tokens before a place, as it stands in memory."""
        used = self.kv[:, :, block_ids[: math.ceil(length / BLOCK)]]
        by_token = used.reshape(self.ranks, LAYERS, -1, TOKEN_BYTES).transpose(2, 0, 1, 3)
        return by_token[:length].tobytes()

    def _write(self, block_ids: list[int], place: int, kv: bytes) -> None:
        begin = place % BLOCK * TOKEN_BYTES
        target = self.kv[:, :, block_ids[place // BLOCK], begin : begin + TOKEN_BYTES]
        target[:] = np.frombuffer(kv, np.uint8).reshape(target.shape)

    # The scheduler, again.

    def _hear(self, output: _Output) -> None:
        self._heard += bool(output.work)
        self._drain()
        skipped = self._handle_invalid(output)
        for each in output.work:
            request, name = each.request, each.request.request_id
            if name not in output.tokens:
                continue
            request.in_flight -= 1
            if name in skipped or request.state == "finished":
                continue
            request.append([output.tokens[name]])
            if request.ends(request.outputs):
                (self.running if request in self.running else self.waiting).remove(request)
                self._finish(request)
        self.planning.stepped()
        if output.report:
            self.planning.reported(output.report)
        for name in output.received:
            request = self.requests[name]
            if request.state == "loading":
                self._received.add(name)
            else:
                assert request.state == "finished"
                self._forget(request)
        for name in output.sent:
            assert self.requests[name].state == "finished"
            self._forget(self.requests[name])

    def _handle_invalid(self, output: _Output) -> set[str]:
        """Have blocks computed that were not loaded; requests whose outputs mean nothing."""
        skipped = set[str]()
        counts = {each.request.request_id: each.count for each in output.work}
        marked = set[int]()
        for request in [*self.waiting, *self.running]:
            if request.state not in ("loading", "running"):
                continue
            name = request.request_id
            computed = request.computed - counts.get(name, 0)
            bad = [
                place
                for place, block in enumerate(request.block_ids[: math.ceil(computed / BLOCK)])
                if block in output.invalid
            ]
            if not bad:
                continue
            fresh = [place for place in bad if request.block_ids[place] not in marked]
            marked |= {request.block_ids[place] for place in bad}
            request.computed = fresh[0] * BLOCK if fresh else computed
            if request.state == "loading":
                self._failed.add(name)
            else:
                skipped.add(name)
                del self._worker_tokens[name][request.num_tokens :]
        return skipped
