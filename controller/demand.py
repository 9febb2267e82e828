"""From a reuse profile to what each pair of sizes asks of an engine, and how it fares at a load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.performance import ServingHardware
from greencache.controller.queueing import Attained, Demand, attainment
from greencache.controller.reuse import ReuseProfile
from greencache.controller.work import Prefill, attended_positions, decode_step, prefill

__all__ = ["Answers", "EngineLimits", "PairCosts", "ServiceModel", "pair_costs"]

Floats = NDArray[np.float64]

_MOST_BUSY = 0.95
"""Share of time with prompts beyond which answers are taken to have as much of it as there."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine promises, and how it fills its steps.

    Attributes
    ----------
    ttft_s, tpot_s:
        Limits on the latency of the first token, and of each later one.
    max_batched_tokens:
        Tokens of a step.
    interval_s:
        Time between decisions.
    """

    ttft_s: float
    tpot_s: float
    max_batched_tokens: int
    interval_s: float


class PairCosts(NamedTuple):
    """Mean costs of a request at every pair of sizes; arrays (DRAM sizes, SSD sizes).

    Attributes
    ----------
    prefill_s:
        Seconds to compute its prompt.
    prefill_j:
        Energy of that above idle power.
    read_bytes:
        From SSD.
    written_bytes:
        To an SSD of each size; (SSD sizes).
    """

    prefill_s: Floats
    prefill_j: Floats
    read_bytes: Floats
    written_bytes: Floats


class Answers(NamedTuple):
    """How an engine's answers are computed.

    Attributes
    ----------
    step_s, step_j:
        Seconds and joules (above idle) of a step without prompts.
    decoding:
        Share of the time without prompts that such steps take.
    """

    step_s: Floats
    step_j: Floats
    decoding: Floats


def pair_costs(
    profile: ReuseProfile, hardware: ServingHardware, max_batched_tokens: int
) -> PairCosts:
    """Mean costs of a request, from the sums of a profile."""
    cost = prefill(hardware.rates, profile.computed_tokens, profile.attended, max_batched_tokens)
    prompt_bytes = profile.input_tokens * hardware.layout.bytes_per_token
    return PairCosts(
        cost.seconds,
        cost.joules,
        profile.found[..., 2] * prompt_bytes,
        profile.written * prompt_bytes,
    )


class ServiceModel:
    """How requests fare at each pair of sizes and load.

    Parameters
    ----------
    hardware:
        One engine.
    limits:
        What it promises.
    ssd_read_bytes_per_s:
        By SSD size of the profile; inf where nothing waits for drives.
    replicas:
        Engines that share the load: each is taken to get its share of it.
    """

    def __init__(
        self,
        hardware: ServingHardware,
        limits: EngineLimits,
        ssd_read_bytes_per_s: Floats,
        replicas: int = 1,
    ) -> None:
        self.hardware, self.limits, self.replicas = hardware, limits, replicas
        self._read_bytes_per_s = ssd_read_bytes_per_s

    def attained(
        self, profile: ReuseProfile, work: float, rates: Floats, starts_s: Floats
    ) -> Attained:
        """Share of requests that meet the limits, by work left over, rate and pair of sizes.

        Parameters
        ----------
        profile:
            With one request or more in its sample.
        work:
            Factor on the time that prompts take, 1 unless measured otherwise.
        rates:
            Requests per second of all engines together.
        starts_s:
            Seconds of work that an interval begins with.

        Returns
        -------
        Attained
            Arrays (starts, rates, DRAM sizes, SSD sizes).
        """
        every = np.arange(profile.computed_tokens.size)
        result = self.pairs(profile, work, rates, starts_s, every)
        pairs = profile.computed_tokens.shape
        return Attained(*(array.reshape(*array.shape[:-1], *pairs) for array in result))

    def pairs(
        self,
        profile: ReuseProfile,
        work: float,
        rates: Floats,
        starts_s: Floats,
        chosen: NDArray[np.int64],
    ) -> Attained:
        """The same for some pairs, numbered row by row: arrays (starts, rates, pairs)."""
        ssds = len(profile.ssd_blocks)
        costs = [self._requests(profile, int(k) // ssds, int(k) % ssds) for k in chosen]
        prefills, loads = zip(*costs, strict=True)
        prefill_s = work * np.stack([each.seconds for each in prefills])
        decode_s = self._decode_s(profile, prefill_s.mean(axis=1), rates)
        sample = profile.sample
        chunks = np.stack([each.chunks for each in prefills])
        demand = Demand(
            sample.gaps, sample.output_tokens, prefill_s, np.stack(loads), chunks, decode_s
        )
        limits = self.limits
        return attainment(
            demand,
            rates / self.replicas,
            ttft_limit_s=limits.ttft_s,
            tpot_limit_s=limits.tpot_s,
            interval_s=limits.interval_s,
            starts_s=starts_s,
        )

    def _requests(self, profile: ReuseProfile, dram: int, ssd: int) -> tuple[Prefill, Floats]:
        """Cost of each sampled prompt, and the seconds until what is loaded is in HBM."""
        hbm, from_dram, from_ssd = profile.prefix_tokens(dram, ssd)
        prefix = hbm + from_dram + from_ssd
        computed = np.maximum(profile.sample.input_tokens - prefix, 1.0)
        attended = attended_positions(computed, prefix)
        cost = prefill(self.hardware.rates, computed, attended, self.limits.max_batched_tokens)
        token_bytes = self.hardware.layout.bytes_per_token
        link_s = (from_dram + from_ssd) * token_bytes / self.hardware.host_link_bytes_per_s
        read_s = from_ssd * token_bytes / self._read_bytes_per_s[ssd]
        return cost, np.maximum(link_s, read_s)

    def answers(self, profile: ReuseProfile, busy: Floats, rates: Floats) -> Answers:
        """How one engine's answers are computed beside its prompts.

        Prompts come first, so answers wait and then run together: those of one busy period of
        prompts begin at about its end. Busy periods come to an engine without prompts at the rate
        of requests, and the answers of each take about as long as one does: it has none to compute
        with the probability ``exp(-m)``, where ``m`` is the rate times tokens times a step's
        seconds, as for Poisson arrivals that each occupy it so long. All tokens are made in the
        steps that are left for them, which gives how many a step makes.

        Parameters
        ----------
        profile:
            For the lengths of prompts and answers.
        busy:
            Share of its time that prompts take.
        rates:
            Requests per second of all engines; ``busy`` and ``rates`` broadcast.
        """
        context = profile.input_tokens + profile.output_tokens / 2
        per_s = rates / self.replicas * profile.output_tokens
        batch = np.ones(np.broadcast_shapes(np.shape(busy), np.shape(rates)))
        left = 1 - np.minimum(busy, _MOST_BUSY)
        for _ in range(3):  # a step takes little longer the more it makes: this settles quickly
            step_s, step_j = decode_step(self.hardware.rates, batch, context)
            decoding = 1 - np.exp(-per_s * step_s)
            batch = np.maximum(per_s * step_s / (left * np.maximum(decoding, 1e-12)), 1.0)
        return Answers(step_s, step_j, decoding)

    def _decode_s(self, profile: ReuseProfile, prefill_s: Floats, rates: Floats) -> Floats:
        """Seconds of a step without prompts; (rates, choices)."""
        busy = rates[:, None] / self.replicas * prefill_s
        return self.answers(profile, busy, rates[:, None]).step_s
