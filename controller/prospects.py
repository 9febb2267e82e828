"""From what was seen and what is forecast to the planner's instance.

For each coming interval ``t``, each state ``n`` that the tiers may be in when it begins, and each
pair of sizes ``k`` that may be chosen for it: grams, requests that meet their limits, and the state
that it ends in.

A state is what the SSD holds and how much work is left over. DRAM fills within minutes and is taken
to be full at once. With ``c`` bytes on SSD, a size ``s`` chosen and ``w`` bytes written in the
interval, the content goes from ``min(c, s)`` to ``min(s, min(c, s) + w)``. A tier of size ``s``
that holds only ``f`` bytes hits like one of size ``f``: it holds what the last ``f`` bytes of
storing left there, as a smaller tier would under lru. But where only what is worth it is written,
``f`` bytes took long to gather, and most of them are past their reuse: such a tier is *settled*
and hits as if full as soon as it holds what is written in half an hour, in which most reuse comes,
and in part before. Both are means over the interval; between the candidate sizes is interpolated.

States are levels of both. Where a level lies between two, the interval decides which one it
becomes: the fraction is compared with ``t * 0.618... mod 1``, which over the intervals lies below
any fraction that often. Rounding to the nearest would never let a tier grow that is written to
slowly.

Left-over work is in seconds of one engine. Recent requests are queued behind each of its levels
(`greencache.controller.queueing`), which says who is in time in an interval that begins so, and
what is left over when it ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.calibration import Calibration
from greencache.controller.demand import PairCosts, ServiceModel, pair_costs
from greencache.controller.levels import dithered, grown, thresholds
from greencache.controller.prices import Prices
from greencache.controller.reuse import ReuseProfile
from greencache.controller.unfold import States, Tables, unfold
from greencache.errors import InputError

__all__ = ["Expected", "Outlook", "Prospects", "ProspectsModel"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SOON_S = 1800.0
"""In which most reuse comes: 9 of 10 gaps inside recorded sessions are shorter than 480 s
(docs/workloads.md), and of those that SSD serves, after HBM's, about as many are below this."""

_LOADS = 12
"""Loads between the lowest and the highest forecast at which requests are queued."""

_NO_LOAD = 1e-3
"""Requests in an interval that stand for none: latency of no request is asked at some load."""


class Outlook(NamedTuple):
    """What is forecast for the coming intervals.

    Attributes
    ----------
    requests:
        Requests expected in each.
    scenarios:
        What it may be as likely, [scenarios, intervals]: quantiles of the forecast. An engine that
        is late is late for all, so whether requests are in time is averaged over them.
    high_requests:
        What it should be able to withstand: a high quantile.
    gco2_per_kwh:
        Carbon intensity expected in each.
    """

    requests: Floats
    scenarios: Floats
    high_requests: Floats
    gco2_per_kwh: Floats


class Prospects(NamedTuple):
    """The planner's instance: T intervals, N states, K choices.

    Attributes
    ----------
    grams, attained:
        Of each interval, state and choice: carbon, and requests that meet their limits.
    requests:
        Of each interval.
    next_node:
        The state that follows.
    start_node:
        The state now.
    choices:
        (K, 2): positions of the DRAM and the SSD size.
    withstood:
        As ``attained``, at the load that each interval should withstand: of as many requests.
    """

    grams: Floats
    attained: Floats
    requests: Floats
    next_node: Ints
    start_node: int
    choices: Ints
    withstood: Floats


class _Tables(NamedTuple):
    """What is expected of the coming intervals, and what if each had the high load."""

    expected: Tables
    high: Tables


class Expected(NamedTuple):
    """What one interval at fixed sizes should bring, over all engines.

    Attributes
    ----------
    attainment, ttft_s:
        With the calibrated work, before the calibrated shift.
    prefill_s, prefill_j:
        What prompts take, before any calibration.
    read_bytes, written_bytes:
        Of SSD.
    grams:
        With the calibrated work and energy.
    """

    attainment: float
    ttft_s: float
    prefill_s: float
    prefill_j: float
    read_bytes: float
    written_bytes: float
    grams: float


class ProspectsModel:
    """Makes instances.

    Parameters
    ----------
    service:
        How requests fare.
    prices:
        What things cost.
    dram_bytes, ssd_bytes:
        Candidate sizes of one engine, in the order of the profile's.
    content_bytes:
        Levels of SSD content, from 0 up to the largest size; by default four to each candidate
        size, at equal distances.
    backlog_s:
        Levels of work left over, from 0 up.
    selective:
        Whether only what is worth it is written to SSD.
    fill:
        Whether a tier that grew is known to be empty at first; else it is taken to be full at once.

    Raises
    ------
    InputError
        If levels do not rise from 0.
    """

    def __init__(
        self,
        service: ServiceModel,
        prices: Prices,
        dram_bytes: Floats,
        ssd_bytes: Floats,
        *,
        content_bytes: Floats | None = None,
        backlog_s: Floats | None = None,
        selective: bool = False,
        fill: bool = True,
    ) -> None:
        self._selective, self._fill = selective, fill
        self.service, self.prices = service, prices
        self.dram_bytes = np.asarray(dram_bytes, np.float64)
        self.ssd_bytes = np.asarray(ssd_bytes, np.float64)
        if content_bytes is None:
            content_bytes = np.linspace(0, self.ssd_bytes[-1], 4 * (len(self.ssd_bytes) - 1) + 1)
        if backlog_s is None:
            interval_s = service.limits.interval_s
            backlog_s = np.array([0.0, 1 / 64, 1 / 16, 1 / 4]) * interval_s
        self.content_bytes = np.unique(np.asarray(content_bytes, np.float64))
        self.backlog_s = np.asarray(backlog_s, np.float64)
        for levels in (self.content_bytes, self.backlog_s):
            if levels[0] != 0 or (np.diff(levels) <= 0).any():
                raise InputError(f"levels of a state rise from 0: {levels}")
        ssds, drams = np.arange(len(self.ssd_bytes)), np.arange(len(self.dram_bytes))
        self.choices = np.stack(np.meshgrid(drams, ssds, indexing="ij"), axis=-1).reshape(-1, 2)

    @property
    def states(self) -> int:
        """How many states there are: level of content times level of backlog."""
        return len(self.content_bytes) * len(self.backlog_s)

    def node(self, content_bytes: float, backlog_s: float) -> int:
        """The state nearest to so much content and work left over."""
        content = int(np.abs(self.content_bytes - content_bytes).argmin())
        backlog = int(np.abs(self.backlog_s - backlog_s).argmin())
        return content * len(self.backlog_s) + backlog

    def choice(self, dram_bytes: float, ssd_bytes: float) -> int:
        """The choice nearest to these sizes."""
        dram = int(np.abs(self.dram_bytes - dram_bytes).argmin())
        return dram * len(self.ssd_bytes) + int(np.abs(self.ssd_bytes - ssd_bytes).argmin())

    def instance(
        self,
        profile: ReuseProfile,
        outlook: Outlook,
        *,
        content_bytes: float,
        backlog_s: float,
        calibration: Calibration | None = None,
    ) -> Prospects:
        """The instance for the coming intervals.

        Parameters
        ----------
        profile:
            Reuse at the candidate sizes.
        outlook:
            Forecasts.
        content_bytes, backlog_s:
            What an engine's SSD holds now, and the work left over.
        calibration:
            What the models were off by.

        Raises
        ------
        InputError
            If the profile is empty, or a forecast is not a number of 0 or more.
        """
        if len(profile.sample.gaps) == 0:
            raise InputError("no request was seen yet: there is nothing to plan with")
        for series in outlook:
            if series.shape[-1] != len(outlook.requests) or not (series >= 0).all():
                raise InputError("forecasts are of equal length, and numbers of 0 or more")
        calibration = calibration or Calibration()
        costs = self._costs(profile, calibration)
        content, mean_content, settled, written = self._contents(costs, outlook.requests)
        count = len(outlook.requests)
        states = States(
            ssd_bytes=self.ssd_bytes,
            dram=self.choices[:, 0].copy(),
            ssd=self.choices[:, 1].copy(),
            mean_bytes=mean_content,
            settled=settled,
            next_content=dithered(content, self.content_bytes, 0.0),
            backlog_s=self.backlog_s,
            # Another part of the sequence than the content's: they are not to round in step.
            thresholds=thresholds(count, 0.5),
        )
        tables = self._tables(profile, costs, outlook, calibration)
        unfolded = unfold(tables.expected, states)
        grams = self._grams(unfolded.joules, written, outlook.gco2_per_kwh)
        return Prospects(
            np.repeat(grams, len(self.backlog_s), axis=1),
            unfolded.in_time,
            outlook.requests,
            unfolded.next_node,
            self.node(content_bytes, backlog_s),
            self.choices,
            unfold(tables.high, states).in_time,
        )

    def _costs(self, profile: ReuseProfile, calibration: Calibration) -> PairCosts:
        service = self.service
        costs = pair_costs(profile, service.hardware, service.limits.max_batched_tokens)
        return costs._replace(
            prefill_s=costs.prefill_s * calibration.work,
            prefill_j=costs.prefill_j * calibration.energy,
        )

    def _contents(
        self, costs: PairCosts, requests: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Content of one engine: when an interval ends, in the mean, how settled; bytes written.

        Arrays (T, levels of content, K); bytes written are those of all engines.
        """
        size = self.ssd_bytes[self.choices[:, 1]]
        before = np.minimum(self.content_bytes[:, None], size)
        shape = (len(requests), *before.shape)
        # Selected writes are paced by the size that there is; others are what content lacks, which
        # between 0 and the first size is all that is new.
        first = self.ssd_bytes[min(1, len(self.ssd_bytes) - 1)]
        by = size if self._selective else np.maximum(before, first)
        per_request = np.interp(by, self.ssd_bytes, costs.written_bytes) * (size > 0)
        written = np.broadcast_to(requests[:, None, None] * per_request, shape)
        if not self._fill:
            whole = np.broadcast_to(size, shape)
            return whole, whole, np.ones(shape), written
        each = written / self.service.replicas
        content, mean = grown(before, size, each)
        if not self._selective:
            return content, mean, np.zeros(shape), written
        soon = np.minimum(each * (_SOON_S / self.service.limits.interval_s), size)
        _, reached = grown(np.minimum(before, soon), soon, each)
        settled = np.divide(reached, soon, out=np.ones(shape), where=soon > 0)
        return content, mean, settled, written

    def _grams(self, serving_j: Floats, written: Floats, gco2_per_kwh: Floats) -> Floats:
        """Grams of all engines, (T, levels of content, K)."""
        prices, interval_s = self.prices, self.service.limits.interval_s
        dram, ssd = self.choices.T
        drams, ssds = self.dram_bytes[dram], self.ssd_bytes[ssd]
        joules = serving_j + prices.storage_w(drams, ssds) * interval_s
        joules += prices.write_j(written)
        grams = prices.operational_g(joules, gco2_per_kwh[:, None, None])
        grams += prices.machine_g(interval_s) + prices.dram_g(drams, interval_s)
        return grams + prices.ssd_g(ssds, written, interval_s)

    def _serving_j(self, profile: ReuseProfile, costs: PairCosts, requests: Floats) -> Floats:
        """Energy of GPUs, hosts and reading SSD in each interval, by DRAM and SSD size."""
        prices, interval_s = self.prices, self.service.limits.interval_s
        engines_s = interval_s * prices.replicas
        count = requests[:, None, None]
        prefill_s = np.minimum(count * costs.prefill_s, engines_s)
        answers = self.service.answers(profile, prefill_s / engines_s, count / interval_s)
        decode_s = (engines_s - prefill_s) * answers.decoding
        always_j = prices.always_w(self.service.hardware.rates.idle_w) * interval_s
        host_j = prices.busy_w * (prefill_s + decode_s)
        gpus_j = count * costs.prefill_j + decode_s * (answers.step_j / answers.step_s)
        return always_j + host_j + gpus_j + prices.read_j(count * costs.read_bytes)

    def _tables(
        self, profile: ReuseProfile, costs: PairCosts, outlook: Outlook, calibration: Calibration
    ) -> _Tables:
        """What each interval brings at each pair of sizes, the SSD full."""
        service = self.service
        scenarios = np.maximum(outlook.scenarios, _NO_LOAD)
        rates = scenarios / service.limits.interval_s
        high = np.maximum(outlook.high_requests, _NO_LOAD) / service.limits.interval_s
        lowest, highest = min(rates.min(), high.min()), max(rates.max(), high.max())
        loads = np.geomspace(lowest, highest * (1 + 1e-9), _LOADS)
        at_loads = service.attained(profile, calibration.work, loads, self.backlog_s)
        shares = calibration.shifted(at_loads.share)
        # A busy hour has more requests as well: shares are averaged over requests, not hours.
        weights = scenarios / scenarios.sum(axis=0)
        share = np.zeros((len(shares), scenarios.shape[1], *shares.shape[2:]))
        backlog_s = np.zeros_like(share)
        for rate, weight in zip(rates, weights, strict=True):
            share += weight[:, None, None] * _at(rate, loads, shares)
            backlog_s += _at(rate, loads, at_loads.backlog_s) / len(rates)
        count, joules = outlook.requests, self._serving_j(profile, costs, outlook.requests)
        return _Tables(
            Tables(joules, count[:, None, None] * share, backlog_s),
            Tables(joules, count[:, None, None] * _at(high, loads, shares), backlog_s),
        )

    def expected(
        self,
        profile: ReuseProfile,
        requests: float,
        gco2_per_kwh: float,
        *,
        dram_bytes: float,
        content_bytes: float,
        ssd_bytes: float,
        backlog_s: float = 0.0,
        calibration: Calibration | None = None,
    ) -> Expected:
        """One interval at sizes that ran, from mean contents: to hold against what was measured.

        Parameters
        ----------
        profile, requests, gco2_per_kwh:
            Reuse, requests that came, and the grid's intensity.
        dram_bytes, ssd_bytes:
            Sizes of the tiers; DRAM one of the candidates.
        content_bytes:
            What the SSD held in the mean.
        backlog_s:
            Work that was left over at the start.
        calibration:
            Only its work and energy are used.
        """
        calibration = calibration or Calibration()
        interval_s, prices = self.service.limits.interval_s, self.prices
        held = min(content_bytes, ssd_bytes)
        at = float(np.interp(held, self.ssd_bytes, np.arange(len(self.ssd_bytes))))
        low = min(int(at), max(len(self.ssd_bytes) - 2, 0))
        dram = int(np.abs(self.dram_bytes - dram_bytes).argmin())
        costs, count = self._costs(profile, calibration), np.array([requests])

        def mixed(table: Floats) -> float:
            return float(np.interp(at, np.arange(table.shape[-1]), table[dram]))

        pair = np.arange(low, min(low + 2, len(self.ssd_bytes))) + dram * len(self.ssd_bytes)
        rates = np.maximum(count, _NO_LOAD) / interval_s
        starts_s = np.array([backlog_s])
        fates = self.service.pairs(profile, calibration.work, rates, starts_s, pair)
        in_time, ttft_s = (
            float(np.interp(at, np.arange(low, low + len(pair)), row[0, 0])) for row in fates[:2]
        )
        per_request = np.interp(held, self.ssd_bytes, costs.written_bytes)
        written_bytes = float(requests * per_request) if ssd_bytes > 0 else 0.0
        joules = mixed(self._serving_j(profile, costs, count)[0])
        sizes = np.array([dram_bytes]), np.array([ssd_bytes])
        written = np.array([written_bytes])
        joules += float(prices.storage_w(*sizes)[0]) * interval_s + float(
            prices.write_j(written)[0]
        )
        grams = prices.operational_g(np.array([joules]), np.array([gco2_per_kwh]))
        grams += prices.machine_g(interval_s) + prices.dram_g(sizes[0], interval_s)
        grams += prices.ssd_g(sizes[1], written, interval_s)
        return Expected(
            in_time,
            ttft_s,
            requests * mixed(costs.prefill_s) / calibration.work,
            requests * mixed(costs.prefill_j) / calibration.energy,
            requests * mixed(costs.read_bytes),
            written_bytes,
            float(grams[0]),
        )


def _at(rates: Floats, loads: Floats, table: Floats) -> Floats:
    """Rows of tables by load, at other loads between them: loads are the second axis."""
    at = np.interp(rates, loads, np.arange(len(loads), dtype=np.float64))
    low = np.minimum(at.astype(np.int64), len(loads) - 2)
    share = (at - low)[:, None, None]
    return np.asarray(table[:, low] * (1 - share) + table[:, low + 1] * share)
