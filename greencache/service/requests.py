"""What clients tell of requests, gathered until an interval ends.

A prompt is told of by `Requests.acquired`, when a client asks for what there is of it. What becomes
of the request is told by `Requests.seen`, at once or little by little: that it came, when it had
its first token, that it ended, maybe some intervals later. Both name it by the client's number for
it. A client that tells nothing of requests still says with each prompt that one came.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.client.messages import KEY_BYTES, Seen
from greencache.controller.naming import BlockNames
from greencache.controller.prompts import Prompts
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Spread
from greencache.service.told import Request, handed_over, likely_tokens

__all__ = ["Asked", "Counted", "Requests"]

MOST_REQUESTS = 1 << 18
"""Known at a time, if nothing else is said: 72 a second over an hour."""

MOST_KEY_BYTES = 256 << 20
"""Of prompts that wait for the end of an interval: 16 million blocks."""

_ASSUMED_TTFT_S = 1.0
"""Until a prompt is computed of whose first token nobody tells, if none is known at all."""

MOST_TOKENS = 1 << 24
"""Of a prompt or an answer: more than any model takes."""

_WAITED_FOR_S = 3600.0
"""After the end of its interval, a request's end is waited for so long, or its prompt."""

_SILENT_S = 2 * _WAITED_FOR_S
"""Before an interval, a client that told of requests last is gone: so are all that it told of."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Counted:
    """Sums since the start, for reports.

    Attributes
    ----------
    requests, finished, within_slo:
        Requests that came, that ended, and that ended and had met both limits.
    prompt_tokens, output_tokens:
        As far as told.
    asked_tokens:
        Prompt tokens of all prompts asked for.
    hit_tokens:
        Of these, what each tier had, beyond those before it.
    lost:
        Of what nothing was learned, by why.
    """

    requests: int = 0
    finished: int = 0
    within_slo: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    asked_tokens: int = 0
    hit_tokens: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Asked:
    """Requests of an interval, as `greencache.controller.telemetry.Window` has them.

    Attributes
    ----------
    arrivals, prompt_tokens, output_tokens, hit_tokens, finished, within_slo, ttft, tpot:
        As there.
    computed_tokens, prefix_tokens:
        For each request that has its first token, prompt tokens computed, and found before them.
    """

    arrivals: int
    prompt_tokens: int
    output_tokens: int
    hit_tokens: dict[str, float]
    finished: int
    within_slo: int
    ttft: Spread
    tpot: Spread
    computed_tokens: Floats
    prefix_tokens: Floats


class Requests:
    """Gathers what clients tell.

    Parameters
    ----------
    slo:
        What was promised.
    block_tokens:
        Tokens to a block; may be set later, 0 until it is known.
    most, most_key_bytes:
        Requests, and bytes of their keys, kept at the most; what is more is counted as lost.
    """

    def __init__(
        self,
        slo: Slo,
        *,
        block_tokens: int = 0,
        most: int = MOST_REQUESTS,
        most_key_bytes: int = MOST_KEY_BYTES,
    ) -> None:
        self.block_tokens = block_tokens
        self.counted = Counted()
        self._slo, self._most, self._most_key_bytes = slo, most, most_key_bytes
        self._known: dict[Hashable, Request] = {}
        self._taken: dict[Hashable, Request] = {}
        """Those that `take` is looking at."""
        self._tellers: dict[Hashable, float] = {}
        """Clients that tell what becomes of requests, and when the last came that they told of."""
        self._nameless = itertools.count()
        self._key_bytes = 0
        self._usual_ttft_s, self._usual_output_tokens = _ASSUMED_TTFT_S, 1.0

    def __len__(self) -> int:
        return len(self._known)

    def acquired(
        self,
        client: Hashable,
        keys: bytes,
        now_s: float,
        *,
        request: int = 0,
        held: int = 0,
        reusable: int | None = None,
        found: Mapping[str, int] | None = None,
    ) -> None:
        """A client asked for what there is of a prompt.

        Parameters
        ----------
        client:
            Whoever numbers requests: the group of an engine's processes.
        keys:
            Of all full blocks, one after another.
        now_s:
            When.
        request:
            The client's number of it, not used again within some hours; 0 if it has none.
        held, reusable:
            Leading blocks that the engine has, and those that may be loaded.
        found:
            Blocks that each tier adds to that.
        """
        one = self.prompt(client, keys, now_s, request=request, reusable=reusable)
        hits = {tier: blocks * self.block_tokens for tier, blocks in (found or {}).items()}
        hits["hbm"] = held * self.block_tokens
        self.counted.asked_tokens += len(keys) // KEY_BYTES * self.block_tokens
        self.counted.hit_tokens.update(hits)
        if one is not None:
            one.hit_tokens = one.hit_tokens or hits

    def prompt(
        self,
        client: Hashable,
        keys: bytes,
        now_s: float,
        *,
        request: int = 0,
        reusable: int | None = None,
    ) -> Request | None:
        """A prompt is known, whether or not it was asked for; parameters as for `acquired`."""
        one = self._find((client, request) if request else next(self._nameless), now_s)
        if one is None or one.keys is not None:
            return one
        one.teller = None if request else client
        if self._key_bytes + len(keys) > self._most_key_bytes:
            self.counted.lost["prompts: too many blocks"] += 1
            return one
        full = len(keys) // KEY_BYTES
        one.keys, one.reusable = keys, full if reusable is None else min(reusable, full)
        self._key_bytes += len(keys)
        return one

    def seen(self, client: Hashable, seen: Seen) -> None:
        """A client tells of a request; its times are of the clock of the others."""
        if not math.isfinite(seen.arrived_s):
            self.counted.lost["requests: no time"] += 1
            return
        name = (client, seen.request) if seen.request else (client, seen.arrived_s, "at")
        if not seen.started and name not in self._known and name not in self._taken:
            return  # its interval is over, or it came before the daemon
        one = self._find(name, seen.arrived_s)
        if one is None:
            return
        self._tellers[client] = seen.arrived_s
        one.told, one.arrived_s = True, seen.arrived_s
        one.prompt_tokens = min(max(seen.prompt_tokens, 1), MOST_TOKENS)
        one.output_tokens = min(max(seen.output_tokens, 0), MOST_TOKENS) or None
        if seen.ttft_s is not None and math.isfinite(seen.ttft_s):
            one.ttft_s = max(seen.ttft_s, 0.0)
        if seen.tpot_s is not None and math.isfinite(seen.tpot_s):
            one.tpot_s = max(seen.tpot_s, 0.0)
        if seen.hit_tokens:
            most = one.prompt_tokens
            one.hit_tokens = {
                tier: min(max(seen.hit_tokens.get(tier, 0), 0), most)
                for tier in ("hbm", "dram", "ssd")
            }
        one.ended = one.ended or seen.ended

    def _find(self, name: Hashable, arrived_s: float) -> Request | None:
        """The request of that name, entered if it is new; None if there are too many."""
        one = self._known.get(name) or self._taken.get(name)
        if one is None and len(self._known) < self._most:
            one = self._known[name] = Request(arrived_s)
        if one is None:
            self.counted.lost["requests: too many"] += 1
        return one

    async def take(
        self, since_s: float, until_s: float
    ) -> tuple[Asked, Callable[[BlockNames], Prompts]]:
        """Requests that came or ended before ``until_s``, and were not taken before as such.

        A request that waits or is answered when its interval ends counts there as one that came,
        and as one that ended in a later one: often it is what came too late.

        They are looked at in a thread: that takes a tenth of a second for some ten thousand.

        Returns
        -------
        Asked
            What they were.
        Callable
            Makes of them what shadow caches are fed with; takes long, and may run in a thread.
        """
        self._taken, self._known = self._known, {}
        left = self._taken
        try:
            asked, made, left = await asyncio.to_thread(self._take, since_s, until_s)
        finally:
            self._known = {**left, **self._known}
            self._taken = {}
            self._tellers = {
                client: min(told_s, until_s)
                for client, told_s in self._tellers.items()
                if told_s >= since_s - _SILENT_S
            }
            self._key_bytes = sum(len(one.keys or b"") for one in self._known.values())
        return asked, made

    def _take(
        self, since_s: float, until_s: float
    ) -> tuple[Asked, Callable[[BlockNames], Prompts], dict[Hashable, Request]]:
        """As `take`, and those of which more may come."""
        come = [one for one in self._taken.values() if one.arrived_s < until_s]
        counted = [one for one in come if not one.counted and self._counts(one)]
        ended = [one for one in come if not one.finished and one.finished_s <= until_s]
        asked = self._asked(counted, ended)
        for one in counted:
            one.counted = True
        for one in ended:
            one.finished = True
        with_prompt = [one for one in come if not one.handed_over and self._is_known(one)]
        with_prompt.sort(key=lambda one: one.arrived_s)
        made = handed_over(
            with_prompt,
            self.block_tokens,
            since_s,
            until_s,
            usual_ttft_s=self._usual_ttft_s,
            usual_output_tokens=self._usual_output_tokens,
        )
        return asked, made, self._left(since_s, until_s)

    def _counts(self, one: Request) -> bool:
        """Whether it is a request that no other record stands for."""
        return one.told or one.teller is None or one.teller not in self._tellers

    def _is_known(self, one: Request) -> bool:
        """Whether its prompt is: there are keys, or it is too short to have any."""
        short = one.prompt_tokens is not None and one.prompt_tokens < self.block_tokens
        return one.keys is not None or (one.told and (one.ended or short))

    def _left(self, since_s: float, until_s: float) -> dict[Hashable, Request]:
        """Requests of which something may come that counts."""
        left: dict[Hashable, Request] = {}
        for name, one in self._taken.items():
            if one.arrived_s > until_s + _WAITED_FOR_S:
                self.counted.lost["requests: of the future"] += 1
                continue
            known = one.all_known(awaited=one.told or self._tells(name))
            old = one.arrived_s < since_s - _WAITED_FOR_S
            if one.arrived_s >= until_s or not (known or old):
                left[name] = one
            elif not known:
                self.counted.lost["requests: not told to the end"] += 1
        return left

    def _tells(self, name: Hashable) -> bool:
        """Whether a request of that name is of a client that tells what becomes of them."""
        return isinstance(name, tuple) and name[0] in self._tellers

    def _asked(self, counted: list[Request], ended: list[Request]) -> Asked:
        ttft_s = np.array([one.ttft_s for one in ended], np.float64)
        tpot_s = np.array([one.tpot_s if one.later_tokens else np.nan for one in ended], np.float64)
        kept = int(self._slo.kept(ttft_s, tpot_s).sum())
        hits: Counter[str] = Counter()
        for one in counted:
            hits.update(one.hit_tokens)
        prompts = [one.prompt_tokens or self._prompt_tokens(one) for one in counted]
        begun = [one for one in counted if one.ttft_s is not None or not one.told]
        prefix = np.array([sum(one.hit_tokens.values()) for one in begun], np.float64)
        whole = np.array([one.prompt_tokens or self._prompt_tokens(one) for one in begun])
        answers = [one.output_tokens for one in counted if one.output_tokens is not None]
        if ended:
            self._usual_ttft_s = float(ttft_s.mean())
        if answers:
            self._usual_output_tokens = sum(answers) / len(answers)
        total = self.counted
        total.requests += len(counted)
        total.finished += len(ended)
        total.within_slo += kept
        total.prompt_tokens += sum(prompts)
        total.output_tokens += sum(answers)
        return Asked(
            len(counted),
            sum(prompts),
            sum(answers),
            {tier: float(hits[tier]) for tier in ("hbm", "dram", "ssd")},
            len(ended),
            kept,
            Spread.of(ttft_s),
            Spread.of(tpot_s[~np.isnan(tpot_s)]),
            np.maximum(whole - prefix, 1.0),
            prefix,
        )

    def _prompt_tokens(self, one: Request) -> int:
        return likely_tokens(len(one.keys or b"") // KEY_BYTES, self.block_tokens)
