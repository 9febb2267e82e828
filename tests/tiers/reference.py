"""Prefix caches written as plainly as possible, to hold the compiled index against.

Nothing is shared with ``greencache``: blocks are dictionary entries, candidates are found by
looking at every block, and each policy is its definition. What ``carbon`` is told of hits per
block-second it takes from the caller; `tests.tiers.spells` has a plain model of reuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Entry:
    name: int
    parent: int | None
    depth: int
    accesses: int
    touched: int
    touched_s: float
    priority: float = 0.0
    visited: bool = False


@dataclass
class ReferenceCache:
    """A prefix-closed cache of at most ``capacity`` blocks under one policy."""

    capacity: int
    policy: str
    cost_base: float = 1.0
    cost_per_depth: float = 0.0
    load_cost: float = 0.0
    hits_per_s: Callable[[int, float], float] = lambda name, now_s: 0.0
    entries: dict[int, Entry] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)  # sieve: oldest first
    hand: int | None = None
    inflation: float = 0.0
    tick: int = 0

    def candidates(self, protected: int | None) -> list[Entry]:
        parents = {entry.parent for entry in self.entries.values()}
        return [
            entry
            for entry in self.entries.values()
            if entry.name not in parents and entry.name != protected
        ]

    def victim(self, protected: int | None, now_s: float) -> Entry | None:
        candidates = self.candidates(protected)
        if not candidates:
            return None
        if self.policy == "lru":
            return min(candidates, key=lambda e: e.touched)
        if self.policy == "lfu":
            return min(candidates, key=lambda e: (e.accesses, e.touched))
        if self.policy == "gdsf":
            chosen = min(candidates, key=lambda e: (e.priority, e.touched))
            self.inflation = max(self.inflation, chosen.priority)
            return chosen
        if self.policy == "lcs":
            return min(
                candidates,
                key=lambda e: (e.accesses**2 / max(now_s - e.touched_s, 1e-3), e.touched),
            )
        if self.policy == "carbon":
            return min(candidates, key=lambda e: (self.carbon_value(e, now_s), e.touched))
        return self.sieve(candidates)

    def carbon_value(self, entry: Entry, now_s: float) -> float:
        cost = self.cost_base + self.cost_per_depth * entry.depth
        return self.hits_per_s(entry.name, now_s) * max(0.0, cost - self.load_cost)

    def sieve(self, candidates: list[Entry]) -> Entry:
        names = {entry.name for entry in candidates}
        at = 0 if self.hand is None else self.queue.index(self.hand)
        while True:
            entry = self.entries[self.queue[at]]
            following = at + 1 if at + 1 < len(self.queue) else None
            if entry.name in names:
                if not entry.visited:
                    self.hand = None if following is None else self.queue[following]
                    return entry
                entry.visited = False
            at = 0 if following is None else following

    def mark_access(self, entry: Entry) -> None:
        entry.accesses += 1
        entry.visited = entry.accesses > 1
        cost = self.cost_base + self.cost_per_depth * entry.depth
        entry.priority = self.inflation + entry.accesses * cost

    def renew(self, names: list[int], now_s: float) -> None:
        for name in reversed(names):
            self.tick += 1
            self.entries[name].touched = self.tick
            self.entries[name].touched_s = now_s

    def evict(self, protected: int | None, now_s: float) -> bool:
        victim = self.victim(protected, now_s)
        if victim is None:
            return False
        del self.entries[victim.name]
        self.queue.remove(victim.name)
        return True

    def access(self, request: list[int], reusable: int, now_s: float) -> int:
        hits = 0
        while hits < reusable and request[hits] in self.entries:
            hits += 1
        for name in request[:hits]:
            self.mark_access(self.entries[name])
        self.renew(request[:hits], now_s)
        kept: list[int] = []
        newest_of_request: int | None = None
        for depth, name in enumerate(request):
            parent = kept[-1] if kept else None
            if name not in self.entries:
                full = False
                while len(self.entries) >= self.capacity and not full:
                    full = not self.evict(parent, now_s)
                if full:
                    break
                self.tick += 1
                self.entries[name] = Entry(name, parent, depth, 0, self.tick, now_s)
                self.mark_access(self.entries[name])
                if newest_of_request is None:
                    self.queue.append(name)
                else:
                    self.queue.insert(self.queue.index(newest_of_request), name)
                newest_of_request = name
            kept.append(name)
        self.renew(kept, now_s)
        return hits
