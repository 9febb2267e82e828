"""Pinning the daemon's memory for CUDA, so that a GPU copies from and to it by itself.

It has not run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

from greencache.adapters.paged.statistics import Counts
from greencache.errors import StorageError

__all__ = ["CudaPinning"]

_PORTABLE = 1
"""``cudaHostRegisterPortable``: pinned for all CUDA contexts of the process."""


class CudaPinning:
    """As `greencache.client.pinning.Pinning`.

    Memory that shares pages with what is registered already cannot be: extents and their parts
    share none. A call that fails leaves its error to the next one of the same thread, and PyTorch
    would raise it there: the client's thread for pins does nothing else.

    Parameters
    ----------
    device:
        The ``torch.device`` whose context registers it.
    counts:
        What is counted.
    """

    def __init__(self, device: Any, counts: Counts) -> None:  # noqa: ANN401
        self._device, self._counts = device, counts

    def pin(self, address: int, size_bytes: int) -> None:
        """As `Pinning.pin`; most likely to fail at the limit of locked memory (``ulimit -l``)."""
        import torch

        with torch.cuda.device(self._device):
            code = int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, _PORTABLE))
        if code != 0:
            self._counts.add("failed_pins")
            raise StorageError(f"cudaHostRegister of {size_bytes:,} bytes: cudaError_t {code}")

    def unpin(self, address: int) -> None:
        """As `Pinning.unpin`."""
        import torch

        with torch.cuda.device(self._device):
            code = int(torch.cuda.cudart().cudaHostUnregister(address))
        if code != 0:
            raise StorageError(f"cudaHostUnregister: cudaError_t {code}")
