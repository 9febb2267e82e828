"""Hit rate over capacity from a sample of the blocks: unbounded streams in bounded memory.

Under LRU, in a cache of any size, whether an access hits depends on its own stack distance alone,
and a distance is a number of different blocks. So a sample of the *blocks*, by a hash of their ids,
estimates both: of ``d - 1`` other blocks the sample holds about ``(d - 1) * rate``, and each access
that is seen stands for ``1 / rate`` (SHARDS: Waldspurger et al., USENIX FAST 2015). Prefix LRU is a
stack algorithm too (see `greencache.controller.curves`): a block hits as part of a leading prefix
if and only if its own distance is at most the capacity, since every block before it in the prefix
is nearer. So nothing need be known of the rest of its prefix, and sampling is as valid there. Its
blocks are hashed one by one, so a long prefix that hits or misses as a whole is spread over the
sample and does not hit or miss it as a whole.

*Misses* are estimated, and hits are what is left of all accesses, which are counted exactly (the
correction called SHARDS-adj). The reason is that misses cannot be concentrated: between two misses
of a block in a cache of ``c`` blocks there are accesses to at least ``c`` others, so of ``n``
accesses no block misses more than ``1 + n / (c + 1)`` times, however popular it is. Hits can be:
whether the most popular block is in the sample would decide the result.

Error
-----
There are two, and the interval adds them up:

* *Which blocks' misses are seen.* The sample is split by hash into 32 groups. The variance between
  their sums estimates that of the whole; blocks that no sample of this size may have seen are
  allowed for by one more block that misses as often as any can, which is ``1 / (c * rate)`` of all
  accesses. Student's t with 31 degrees of freedom gives the bound.
* *How far a distance is off.* The sample sees Binomial(c - 1, rate) of the blocks that are nearer
  than ``c``, so the capacity is uncertain by about ``1.96 / sqrt(c * rate)`` of itself, and the
  curve is read at both ends. The spread between groups cannot show this where many accesses have
  one distance, as in a loop: there they all are on the wrong side together.

Both are made of ``c * rate``, the blocks of the sample that fit. Under about 10 of them nothing is
sure but that a larger capacity hits no less, which bounds them from above; 1,000 give a few percent
of the capacity. The interval is for each capacity by itself. docs/curves.md has how often it held.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.controller.sample import (
    BUCKETS,
    GROUPS,
    bucket_tops,
    feed,
    memory_bytes,
    new_sample,
    rate_of,
)
from greencache.errors import InputError

__all__ = ["Estimate", "SampledCurve"]

FIRM_BLOCKS = 100
"""Blocks of the sample in a capacity that bounds the smaller ones; with fewer, its own interval
would soon be too wide to bound anything."""

_TOPS = bucket_tops()


class Estimate(NamedTuple):
    """An estimate at each capacity, and the ends of its interval."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def times(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


class SampledCurve:
    """LRU's hits at all capacities, from a stream fed batch by batch.

    The stream is served in prefix form by `add`, block by block by `add_accesses`; one object
    follows one of the two.

    Parameters
    ----------
    max_blocks:
        Blocks in the sample at most; about 40 bytes each, besides 1.4 MB for what is counted.
    rate:
        Share of all blocks that the sample begins with; it falls when the sample is full.
    seed:
        Of the hash. Equal seeds choose equal blocks.
    largest_capacity_blocks:
        If given, `hits` is asked for capacities up to this only. The sample may then forget blocks
        that are farther away, and its rate stays near ``max_blocks / largest_capacity_blocks``
        however many blocks pass: for streams without end.

    Raises
    ------
    InputError
        If ``max_blocks``, ``rate`` or ``largest_capacity_blocks`` is not usable.
    """

    def __init__(
        self,
        max_blocks: int = 100_000,
        *,
        rate: float = 1.0,
        seed: int = 0,
        largest_capacity_blocks: int | None = None,
    ) -> None:
        if not 1 <= max_blocks <= 2**28:
            raise InputError(f"a sample has 1 to {2**28:,} blocks, not {max_blocks}")
        if not 2.0**-32 <= rate <= 1:
            raise InputError(f"a sampling rate is more than 0 and at most 1: {rate}")
        if largest_capacity_blocks is not None and largest_capacity_blocks < 1:
            raise InputError(
                f"the largest capacity is one block or more: {largest_capacity_blocks}"
            )
        self._largest = largest_capacity_blocks
        self._sample = new_sample(max_blocks, rate, self._lowest_rate(max_blocks), seed)
        self.accesses = 0
        """Blocks accessed so far, in the sample or not."""
        self.lookups = 0
        """Those of them that might have hit."""

    def _lowest_rate(self, max_blocks: int) -> float:
        """The rate at which the blocks in the largest capacity, and four deviations more, fit."""
        if self._largest is None:
            return 0.0
        # expected + 4 * sqrt(expected) + 4 = max_blocks, as a square in sqrt(expected)
        expected = max(math.sqrt(max_blocks) - 2, 0) ** 2
        return min(expected / self._largest, 1.0)

    @property
    def rate(self) -> float:
        """Share of all blocks that the sample holds now."""
        return float(rate_of(self._sample))

    @property
    def memory_bytes(self) -> int:
        """Memory of the sample and its counts; it never grows."""
        return memory_bytes(self._sample)

    def add(
        self,
        ids: NDArray[Any],
        starts: NDArray[np.int64],
        full: NDArray[np.int64],
        reusable: NDArray[np.int64],
    ) -> None:
        """Serve requests, whole ones, under prefix LRU.

        Parameters
        ----------
        ids:
            Blocks of all requests, one request after the other, named by chained ids: any 64-bit
            integers, which keep their meaning from batch to batch.
        starts, full, reusable:
            For each request: where it begins in ``ids``, how many full blocks it has, and how many
            of them may hit.
        """
        keys = np.ascontiguousarray(ids)
        if keys.dtype != np.uint64:
            keys = keys.astype(np.int64, copy=False).view(np.uint64)
        feed(self._sample, keys, starts, full, reusable)
        self.accesses += int(full.sum())
        self.lookups += int(reusable.sum())

    def add_accesses(self, ids: NDArray[Any]) -> None:
        """Serve blocks under plain LRU, each by itself, in order."""
        one = np.ones(len(ids), np.int64)  # plain LRU is prefix LRU of one block a request
        self.add(ids, np.arange(len(ids)), one, one)

    def start_counting(self) -> None:
        """Forget what was counted, not the blocks: `hits` is then of what comes from now on."""
        for counts in (self._sample.weights, self._sample.group_weights):
            counts.fill(0)
        self.accesses = self.lookups = 0

    def hits(self, capacities_blocks: NDArray[Any], confidence: float = 0.95) -> Estimate:
        """How many accesses so far would have hit at each capacity.

        The interval holds at each capacity with at least the ``confidence`` given, which is at
        most 0.999.

        Raises
        ------
        InputError
            If a capacity is larger than ``largest_capacity_blocks``, or the confidence not usable.
        """
        capacities = np.asarray(capacities_blocks, np.float64)
        if self._largest is not None and (capacities > self._largest).any():
            raise InputError(f"this sample knows capacities of up to {self._largest} blocks only")
        if not 0 < confidence <= 0.999:
            raise InputError(f"a confidence is more than 0 and at most 0.999: {confidence}")
        counted = _reached(self._sample.weights, capacities, "part") + self._uncounted()
        low, high = self._interval(capacities, confidence)
        # What is not certain of a small capacity may be of a larger one, which hits no less.
        surer = np.array([min(FIRM_BLOCKS / self.rate, self._largest or np.inf)])
        _, ceiling = self._interval(surer, confidence)
        high = np.where(capacities < surer, np.minimum(high, ceiling), high)
        low, high = np.minimum(low, counted), np.maximum(high, counted)
        some = capacities >= 1  # nothing hits in a cache that holds nothing
        return Estimate(*(np.clip(hits, 0, self.lookups) * some for hits in (counted, low, high)))

    def _uncounted(self) -> float:
        """Accesses less those that the sample stands for: taken to hit, see the module's text."""
        return float(self.lookups - self._sample.weights.sum())

    def _interval(
        self, capacities: NDArray[np.float64], confidence: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sample, rate = self._sample, self.rate
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        t = _student_t(z, GROUPS - 1)
        # Misses of one more block, in the weights that group_weights has.
        unseen = np.sqrt(1 - rate) / rate * (1 + self.accesses / (capacities + 1))
        nearest, farthest = _distances_seen(capacities, rate, z)
        low = _reached(sample.weights, nearest, "least") + self._uncounted()
        high = _reached(sample.weights, farthest, "most") + self._uncounted()
        return (
            low - t * np.hypot(_deviation(sample.group_weights, nearest), unseen),
            high + t * np.hypot(_deviation(sample.group_weights, farthest), unseen),
        )

    def hit_rate(self, capacities_blocks: NDArray[Any], confidence: float = 0.95) -> Estimate:
        """`hits` over all accesses so far."""
        return self.hits(capacities_blocks, confidence).times(1 / max(self.accesses, 1))


def _student_t(z: float, freedom: int) -> float:
    """Quantile of Student's t from that of the normal distribution.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5; with 31 degrees of
    freedom it is right to four digits.
    """
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _distances_seen(
    capacities: NDArray[np.float64], rate: float, z: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How near and how far a block at the distance of the capacity may look in the sample.

    Quantiles of Binomial(c - 1, rate) over the rate, by Cornish and Fisher's expansion to the
    skewness, and one block to spare for their being whole numbers.
    """
    expected = np.maximum(capacities - 1, 0) * rate
    spread = z * np.sqrt(expected * (1 - rate))
    skewed = expected + (z * z - 1) / 6 * (1 - rate)
    nearest = np.maximum(skewed - spread - (1 - rate), -1)
    farthest = skewed + spread + (1 - rate)
    return 1 + nearest / rate, 1 + farthest / rate


def _reached(
    weights: NDArray[np.float64], distances: NDArray[np.float64], of_bucket: str
) -> NDArray[np.float64]:
    """Sum of the last axis of ``weights`` up to each distance.

    Of the bucket that the distance lies in: nothing (``"least"``), all (``"most"``), or the
    ``"part"`` that lies below if all distances in it are equally frequent.
    """
    zero = np.zeros((*weights.shape[:-1], 1))
    sums = np.concatenate([zero, np.cumsum(weights[..., :BUCKETS], axis=-1)], axis=-1)
    bucket = np.clip(np.searchsorted(_TOPS, distances, side="right"), 1, BUCKETS - 1)
    share = np.clip((distances - _TOPS[bucket - 1]) / (_TOPS[bucket] - _TOPS[bucket - 1]), 0, 1)
    if of_bucket == "least":
        share = np.floor(share)
    elif of_bucket == "most":
        share = np.ceil(share)
    below = sums[..., bucket]
    return np.asarray(below + share * (sums[..., bucket + 1] - below))


def _deviation(
    group_weights: NDArray[np.float64], distances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard deviation of the sum of all groups' misses, from how the groups differ."""
    misses = group_weights.sum(axis=1)[:, None] - _reached(group_weights, distances, "part")
    return np.asarray(np.sqrt(GROUPS * misses.var(axis=0, ddof=1)))
