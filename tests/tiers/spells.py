"""A model of reuse written as plainly as possible: a list of spells, looked at one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SLICE_S = 256.0
EDGES_S = [0.0] + [2.0 ** (i / 2) for i in range(37)]
"""Of the first second, and of two buckets for each doubling up to 2**18 s."""


@dataclass
class Spell:
    """From an access of a block to its next one; that has not come yet if ``ended_s`` is None."""

    kind: int
    began_s: float
    ended_s: float | None = None
    following: int | None = None
    """Class of the block from then on."""


@dataclass
class Block:
    accesses: int
    generation: int
    pause: int
    spell: Spell

    @property
    def kind(self) -> int:
        return (min(self.accesses, 3) - 1) * 12 + min(self.generation, 2) * 4 + self.pause


@dataclass
class PlainReuse:
    half_life_s: float
    blocks: dict[int, Block] = field(default_factory=dict)
    spells: list[Spell] = field(default_factory=list)

    def observe(self, request: list[int], now_s: float) -> None:
        known = [self.blocks[name] for name in request if name in self.blocks]
        youngest = min(known[-1].generation + 1, 2) if known else 0
        since_s = now_s - known[-1].spell.began_s if known else 0.0
        pause = sum(since_s >= limit_s for limit_s in (256.0, 1024.0, 4096.0))
        repeated = {name for name in request if name in self.blocks}
        for name in request:
            if name in repeated:
                block = self.blocks[name]
                block.accesses += 1
                block.spell.ended_s = now_s
            else:
                block = self.blocks[name] = Block(1, youngest, 0, Spell(0, 0.0))
            block.pause = pause
            if name in repeated:
                block.spell.following = block.kind
            block.spell = Spell(block.kind, now_s)
            self.spells.append(block.spell)

    def weight(self, spell: Spell, now_s: float) -> float:
        slices = math.floor(now_s / SLICE_S) - math.floor(spell.began_s / SLICE_S)
        return float(2.0 ** (-slices * SLICE_S / self.half_life_s))

    def moves(self, now_s: float) -> dict[tuple[int, int], float]:
        """Weight of the spells that ended, by their class and the one that followed."""
        weights: dict[tuple[int, int], float] = {}
        for spell in self.spells:
            if spell.following is not None:
                pair = (spell.kind, spell.following)
                weights[pair] = weights.get(pair, 0.0) + self.weight(spell, now_s)
        return weights

    def life_table(self, kind: int, now_s: float) -> tuple[list[float], list[float]]:
        """Weight of the spells that ended in each bucket, and of the seconds spent there."""
        ended, exposed_s = [0.0] * 37, [0.0] * 37
        for spell in self.spells:
            if spell.kind != kind:
                continue
            began, weight = math.floor(spell.began_s / SLICE_S), self.weight(spell, now_s)
            if spell.ended_s is not None:
                age_s = spell.ended_s - spell.began_s
                bucket = max(i for i in range(37) if EDGES_S[i] <= age_s)
                ended[bucket] += weight
            else:
                # Taken to have begun in the middle of what has passed of its slice.
                until_s = min((began + 1) * SLICE_S, now_s)
                age_s = now_s - (began * SLICE_S + until_s) / 2
            for i in range(37):
                spent_s = min(age_s, EDGES_S[i + 1]) - EDGES_S[i]
                exposed_s[i] += weight * max(0.0, spent_s)
        return ended, exposed_s


def best_ratio(hazards_per_s: list[float], start: int) -> float:
    """Most hits per second kept over all horizons, beginning at the young end of a bucket."""
    best = 0.0
    for stop in range(start + 1, 38):
        hits = seconds = 0.0
        surviving = 1.0
        for i in range(start, stop):
            after = math.exp(-hazards_per_s[i] * (EDGES_S[i + 1] - EDGES_S[i]))
            hits += surviving * (1 - after)
            seconds += surviving * (1 - after) / hazards_per_s[i]
            surviving *= after
        best = max(best, hits / seconds)
    return best
