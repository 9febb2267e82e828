"""The engine's KV memory as pages, and copies between pages and the store's blocks.

A *page* is what one layer keeps for one of the engine's blocks. One of the store's blocks, or this
rank's shard of it, holds the pages of ``per_block`` engine blocks, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from greencache.errors import InputError

__all__ = ["DevicePages", "HostPages", "Pages"]

Bytes = NDArray[np.uint8]


class Pages(Protocol):
    """The engine's KV memory on one rank."""

    shard_bytes: int
    """Bytes of a block on this rank."""

    def save(self, block_ids: Sequence[int], blocks: Sequence[Bytes]) -> None:
        """Copy engine blocks to the store's: ``per_block`` of them to each."""

    def load(self, blocks: Sequence[Bytes], first: int, block_ids: Sequence[int]) -> None:
        """Copy to engine blocks, of which the first is the ``first`` within ``blocks``."""


class _Layout:
    def __init__(self, page_bytes: Sequence[int], per_block: int) -> None:
        if per_block < 1 or not page_bytes:
            raise InputError(
                "KV memory has a layer or more, and blocks of one engine block or more"
            )
        self.per_block = per_block
        self.page_bytes = list(page_bytes)
        self.starts = [0, *np.cumsum(np.array(page_bytes) * per_block).tolist()]
        self.shard_bytes = self.starts[-1]

    def layers(self, block: Bytes) -> list[Bytes]:
        """Pages of a block: for each layer, [per_block, page]."""
        return [
            block[start : start + page * self.per_block].reshape(self.per_block, page)
            for start, page in zip(self.starts, self.page_bytes, strict=False)
        ]


class HostPages:
    """KV memory of an engine on the CPU.

    Parameters
    ----------
    layers:
        Of each layer, its pages as bytes: [engine blocks, page].
    per_block:
        Engine blocks in one of the store's.
    """

    def __init__(self, layers: Sequence[Bytes], per_block: int) -> None:
        self._layers = list(layers)
        self._layout = _Layout([layer.shape[1] for layer in layers], per_block)
        self.shard_bytes = self._layout.shard_bytes

    def save(self, block_ids: Sequence[int], blocks: Sequence[Bytes]) -> None:
        """As `Pages.save`."""
        per_block = self._layout.per_block
        for number, block in enumerate(blocks):
            ids = block_ids[number * per_block : (number + 1) * per_block]
            for layer, pages in zip(self._layers, self._layout.layers(block), strict=True):
                for place, block_id in enumerate(ids):
                    np.copyto(pages[place], layer[block_id])

    def load(self, blocks: Sequence[Bytes], first: int, block_ids: Sequence[int]) -> None:
        """As `Pages.load`."""
        for number, block in enumerate(blocks):
            begin = number * self._layout.per_block - first
            for layer, pages in zip(self._layers, self._layout.layers(block), strict=True):
                for place in range(max(0, -begin), self._layout.per_block):
                    if begin + place < len(block_ids):
                        np.copyto(layer[block_ids[begin + place]], pages[place])


class DevicePages:
    """KV memory of an engine on a GPU: copies run on a stream of their own.

    Parameters
    ----------
    layers:
        Of each layer, its pages: a ``torch.uint8`` tensor [engine blocks, page] on the device.
    per_block:
        Engine blocks in one of the store's.
    stream:
        What the copies run on; None for the current one (which is also for tests without a GPU).
    """

    def __init__(
        self,
        layers: Sequence[Any],
        per_block: int,
        stream: Any = None,  # noqa: ANN401
    ) -> None:
        self._layers = list(layers)
        self._layout = _Layout([layer.shape[1] for layer in layers], per_block)
        self._stream = stream
        self.shard_bytes = self._layout.shard_bytes

    def save(self, block_ids: Sequence[int], blocks: Sequence[Bytes]) -> None:
        """As `Pages.save`: all of a layer's pages are gathered on the device first."""
        import torch

        per_block = self._layout.per_block
        with torch.cuda.stream(self._stream), self._ended():
            ids = torch.tensor(block_ids, device=self._layers[0].device)
            targets = [self._layout.layers(block) for block in blocks]
            for number, layer in enumerate(self._layers):
                gathered = layer.index_select(0, ids)
                for place, pages in enumerate(targets):
                    source = gathered[place * per_block : (place + 1) * per_block]
                    torch.from_numpy(pages[number]).copy_(source, non_blocking=True)

    def load(self, blocks: Sequence[Bytes], first: int, block_ids: Sequence[int]) -> None:
        """As `Pages.load`: all of a layer's pages are spread on the device last."""
        import torch

        with torch.cuda.stream(self._stream), self._ended():
            ids = torch.tensor(block_ids, device=self._layers[0].device)
            sources = [self._layout.layers(block) for block in blocks]
            for number, layer in enumerate(self._layers):
                page_bytes = self._layout.page_bytes[number]
                shape = (len(blocks) * self._layout.per_block, page_bytes)
                pages = torch.empty(shape, dtype=torch.uint8, device=layer.device)
                for place, source in enumerate(sources):
                    begin = place * self._layout.per_block
                    pages[begin : begin + self._layout.per_block].copy_(
                        torch.from_numpy(source[number]), non_blocking=True
                    )
                layer.index_copy_(0, ids, pages[first : first + len(block_ids)])

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """At its end nothing is copied any more, whatever happens.

        Copies of pinned memory go on by themselves, and the caller gives the blocks up.
        """
        try:
            yield
        finally:
            if self._stream is not None:
                self._stream.synchronize()
