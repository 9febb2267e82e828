"""``Share``: what one host keeps on a server that it shares with others.

The server knows what is there. A host knows which blocks it has put there itself, and no more of
those than its share has room for: if there are, the ones asked for longest ago go first, and of a
prompt the last ones. Blocks that others have put there count towards nobody's share here and are
left to them.

Leases, writers and blocks that build on it keep a block. One that was deleted meanwhile is no
longer found at once, and goes when they end.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Kept", "Share"]


@dataclass(slots=True, eq=False)
class Kept:
    """A block of this host's: committed, or being written.

    Attributes
    ----------
    key:
        Its key.
    parent:
        The block before it, if it is this host's too.
    touched:
        When it was written or asked for last, as counted by the share.
    touched_s:
        The same on the caller's clock.
    users:
        Leases, writers and blocks that build on it.
    committed:
        Whether it may be found.
    gone:
        Whether it was deleted, and goes when nobody uses it.
    queued:
        Whether it is among those that may go, as far as was known when it was put there.
    """

    key: bytes
    parent: Kept | None
    touched: int = 0
    touched_s: float = 0.0
    users: int = 1
    committed: bool = False
    gone: bool = False
    queued: bool = False


class Share:
    """Blocks of this host, for a number of blocks.

    Methods that may remove blocks return the keys of those removed that were committed: whoever
    calls takes them off the server.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.evicted_blocks = 0
        self._kept: dict[bytes, Kept] = {}
        self._children: dict[bytes, set[bytes]] = {}
        self._gone: set[Kept] = set()
        self._ticks = 0
        self._oldest: list[tuple[int, Kept]] = []
        """A heap of blocks that nobody used at that tick; some are used, touched or gone since."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Kept | None:
        """A block, committed or not."""
        return self._kept.get(key)

    def committed(self, keys: Sequence[bytes]) -> list[Kept | None]:
        """For each key its block, if that is committed."""
        found = [self._kept.get(key) for key in keys]
        return [block if block is not None and block.committed else None for block in found]

    def visible(self, keys: Sequence[bytes]) -> int:
        """Leading blocks of which none was deleted."""
        if self._gone:
            for place, key in enumerate(keys):
                block = self._kept.get(key)
                if block is not None and block.gone:
                    return place
        return len(keys)

    def lease(self, keys: Sequence[bytes], now_s: float | None = None) -> list[Kept]:
        """Keep those of a prefix that are this host's; touch them if a time is given."""
        blocks = [block for block in self.committed(keys) if block is not None]
        if now_s is not None:
            self._touch(blocks, now_s)
        for block in blocks:
            block.users += 1
        return blocks

    def release(self, blocks: Iterable[Kept]) -> list[bytes]:
        """End the use of blocks; keys of what could not go before."""
        for block in blocks:
            block.users -= 1
            self._let_go(block)
        return self._remove_gone() + self.make_room(0)

    def make_room(self, blocks: int) -> list[bytes]:
        """Let the oldest go until so many more have room, or none may go; keys of those."""
        removed: list[bytes] = []
        while len(self._kept) + blocks > self.capacity_blocks:
            block = self._next_oldest(math.inf)
            if block is None:
                break
            removed.append(block.key)
        return removed

    def reserve(
        self, keys: Sequence[bytes], first: int, now_s: float
    ) -> tuple[list[Kept], list[Kept], list[bytes]]:
        """Take room for ``keys`` from place ``first`` on; those before are on the server.

        Returns
        -------
        tuple
            The blocks to write, as many as there is room for up to one that is here already; those
            before them that are kept meanwhile; keys of what goes for them.
        """
        before = self.lease(keys[:first])
        parent = self._kept.get(keys[first - 1]) if first else None
        blocks: list[Kept] = []
        removed: list[bytes] = []
        for key in keys[first:]:
            if key in self._kept:
                break
            removed += self.make_room(1)
            if len(self._kept) >= self.capacity_blocks:
                break
            block = Kept(key, parent)
            if parent is not None:
                parent.users += 1
                self._children.setdefault(parent.key, set()).add(key)
            self._kept[key] = parent = block
            blocks.append(block)
        self._touch(blocks, now_s)
        self._touch(before, now_s)
        return blocks, before, removed

    def finish(self, blocks: Sequence[Kept], before: Sequence[Kept], stored: int) -> list[bytes]:
        """End a writer, of whose blocks the first ``stored`` are on the server now.

        Returns
        -------
        list
            Keys of what goes: of blocks deleted meanwhile, and of what could not go before.
        """
        for place, block in enumerate(blocks):
            block.committed = place < stored
            if not block.committed:
                self._mark(block)
        return self.release([*blocks[::-1], *before])

    def drop(self, key: bytes) -> list[bytes]:
        """Delete a block and all of this host's that build on it; keys of those that went now."""
        block = self._kept.get(key)
        if block is None:
            return []
        self._mark(block)
        return self._remove_gone()

    def lose(self, key: bytes) -> list[bytes]:
        """Forget a block that the server has evicted, and what builds on it, which is of no use.

        Leases do not keep them: there is nothing to keep, and they may be stored again at once.
        """
        lost = self._kept.get(key)
        if lost is None or not lost.committed:
            return []
        parent, removed, going = lost.parent, [], [lost]
        while going:
            each = going.pop()
            going += [self._kept[child] for child in self._children.get(each.key, ())]
            if each.parent is not None and each.parent.key not in self._kept:
                each.parent = None
            if each.committed:
                self.evicted_blocks += not each.gone
                removed.append(each.key)
                del self._kept[each.key]
                self._gone.discard(each)
                self._children.pop(each.key, None)
            else:
                self._mark(each)  # its writer will hear of it
        if parent is not None:
            self._part(lost, parent)
        return removed

    def expire(self, before_s: float) -> None:
        """Forget what nobody asked for since: the server has dropped it by itself."""
        while self._next_oldest(before_s) is not None:
            pass

    # Inside.

    def _next_oldest(self, before_s: float) -> Kept | None:
        """Evict the block asked for longest ago, if that was before; None if there is none."""
        while self._oldest:
            touched, block = self._oldest[0]
            here = self._kept.get(block.key) is block and not block.users
            if here and block.touched == touched and block.touched_s > before_s:
                return None
            heapq.heappop(self._oldest)
            block.queued = False
            if here and block.touched == touched:
                self.evicted_blocks += 1
                self._remove(block)
                return block
            self._let_go(block)  # touched meanwhile
        return None

    def _touch(self, blocks: Sequence[Kept], now_s: float) -> None:
        """From the last to the first, so that of a prompt the last one is the oldest."""
        for block in reversed(blocks):
            self._ticks += 1
            block.touched, block.touched_s = self._ticks, now_s

    def _mark(self, block: Kept) -> None:
        """Let a block and what builds on it be found no longer."""
        going = [block]
        while going:
            each = going.pop()
            each.gone = True
            self._gone.add(each)
            going += [self._kept[key] for key in self._children.get(each.key, ())]

    def _let_go(self, block: Kept) -> None:
        """Let a block be evicted if nobody uses it."""
        here = self._kept.get(block.key) is block and not block.gone
        if here and not block.users and not block.queued:
            block.queued = True
            heapq.heappush(self._oldest, (block.touched, block))

    def _remove_gone(self) -> list[bytes]:
        """Remove blocks that are gone and unused; keys of those that are on the server."""
        removed: list[bytes] = []
        ready = [block for block in self._gone if block.users == 0]
        while ready:
            block = ready.pop()
            if block.committed:
                removed.append(block.key)
            parent = block.parent
            self._remove(block)
            if parent is not None and parent.gone and parent.users == 0:
                ready.append(parent)
        return removed

    def _remove(self, block: Kept) -> None:
        """Remove a block that nobody uses."""
        del self._kept[block.key]
        self._gone.discard(block)
        if block.parent is not None:
            self._part(block, block.parent)

    def _part(self, block: Kept, parent: Kept) -> None:
        """A block no longer builds on another."""
        parent.users -= 1
        self._children[parent.key].discard(block.key)
        if not self._children[parent.key]:
            del self._children[parent.key]
        self._let_go(parent)
