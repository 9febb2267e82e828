"""From tables by interval and sizes to arrays by interval, state and choice, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import inlined, kernel
from greencache.controller.levels import between, level_of

__all__ = ["States", "Tables", "Unfolded", "unfold"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Tables(NamedTuple):
    """What intervals bring if the SSD is full.

    Attributes
    ----------
    joules:
        Energy, (intervals, DRAM sizes, SSD sizes).
    in_time:
        Requests that meet their limits, (levels of work left over at the start, intervals, DRAM
        sizes, SSD sizes).
    left_s:
        The same shape: work left over at the end, in seconds of an engine.
    """

    joules: Floats
    in_time: Floats
    left_s: Floats


class States(NamedTuple):
    """Where they are read, and what states follow.

    Attributes
    ----------
    ssd_bytes:
        SSD sizes of the tables.
    dram:
        By choice: its DRAM size, a position.
    ssd:
        By choice: its SSD size, a position.
    mean_bytes:
        (Intervals, levels of content, choices): what the SSD holds in the mean.
    settled:
        The same shape: how far it hits like one of its size, and not like one of ``mean_bytes``.
    next_content:
        The same shape: the level of content that follows.
    backlog_s:
        Levels of work left over.
    thresholds:
        By interval: from which share of the way on the next level of backlog is taken.
    """

    ssd_bytes: Floats
    dram: Ints
    ssd: Ints
    mean_bytes: Floats
    settled: Floats
    next_content: Ints
    backlog_s: Floats
    thresholds: Floats


class Unfolded(NamedTuple):
    """Energy (intervals, levels of content, choices), the others (intervals, states, choices)."""

    joules: Floats
    in_time: Floats
    next_node: Ints


@inlined
def _mixed(row: Floats, low: int, share: float, size: int, settled: float) -> float:
    at = float(row[low])
    if share > 0:
        at += share * (row[low + 1] - at)
    return float(at + settled * (row[size] - at))


@kernel
def _unfold(tables: Tables, states: States, out: Unfolded) -> None:
    intervals, contents, choices = states.mean_bytes.shape
    backlogs = len(states.backlog_s)
    for t in range(intervals):
        for c in range(contents):
            for k in range(choices):
                d, size, settled = states.dram[k], states.ssd[k], states.settled[t, c, k]
                low, share = between(states.mean_bytes[t, c, k], states.ssd_bytes)
                out.joules[t, c, k] = _mixed(tables.joules[t, d], low, share, size, settled)
                for b in range(backlogs):
                    left_s = _mixed(tables.left_s[b, t, d], low, share, size, settled)
                    level = level_of(left_s, states.backlog_s, states.thresholds[t])
                    n = c * backlogs + b
                    in_time = _mixed(tables.in_time[b, t, d], low, share, size, settled)
                    out.in_time[t, n, k] = in_time
                    out.next_node[t, n, k] = states.next_content[t, c, k] * backlogs + level


def unfold(tables: Tables, states: States) -> Unfolded:
    """Read tables at every state and choice."""
    intervals, contents, choices = states.mean_bytes.shape
    shape = (intervals, contents * len(states.backlog_s), choices)
    out = Unfolded(np.empty(states.mean_bytes.shape), np.empty(shape), np.empty(shape, np.int64))
    _unfold(tables, states, out)
    return out
