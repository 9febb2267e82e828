"""Energy of GPUs by NVML, NVIDIA's management library, through the package nvidia-ml-py.

GPUs since Volta count millijoules since their driver was loaded
(``nvmlDeviceGetTotalEnergyConsumption``). Older ones only tell their power in milliwatts
(``nvmlDeviceGetPowerUsage``): it is read each second and integrated.

Reference: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from greencache.adapters.counters import Counters
from greencache.errors import SourceError
from greencache.waiting import aside

__all__ = ["NvmlMeter"]

_COUNTED_S = 60.0
_INTEGRATED_S = 1.0
_ANSWER_S = 10.0

T = TypeVar("T")


async def _asked(call: Callable[[], T]) -> T:
    """What a call says, in a thread that may be left behind: a driver may hang for ever.

    Raises
    ------
    SourceError
        If there is no thread to be had, and what the call raises.
    """
    try:
        made = aside(call, "greencache-nvml")
    except RuntimeError as fault:
        raise SourceError("busy", f"NVML cannot be asked: {fault}") from fault
    return await asyncio.wrap_future(made)


class NvmlMeter:
    """All energy of some GPUs of this host.

    Parameters
    ----------
    gpus:
        Which, by NVML's numbers; None for all.
    library:
        The module ``pynvml``, or what stands for it.
    """

    source = "nvml"
    components = frozenset({"gpu"})

    def __init__(self, gpus: Sequence[int] | None = None, library: Any = None) -> None:  # noqa: ANN401
        self._gpus, self._library = gpus, library
        self._counted: dict[int, Any] = {}
        self._integrated: dict[int, Any] = {}
        self._counters: Counters[int] = Counters()
        self._last_w: tuple[float, float] | None = None
        self._joules = 0.0
        self._open = False

    @property
    def longest_s(self) -> float:
        """As `Meter.longest_s`: a second if power has to be integrated."""
        return _INTEGRATED_S if self._integrated else _COUNTED_S

    async def open(self) -> None:
        """As `Meter.open`; takes up to a second."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                await _asked(self._find)
        except TimeoutError:
            raise SourceError("absent", f"NVML does not answer in {_ANSWER_S:g} s") from None

    def _find(self) -> None:
        nvml = self._library
        if nvml is None:
            try:
                nvml = self._library = import_module("pynvml")
            except ImportError:
                raise SourceError(
                    "absent", "NVML needs the package nvidia-ml-py: pip install nvidia-ml-py"
                ) from None
        try:
            nvml.nvmlInit()
            self._open = True
            count = nvml.nvmlDeviceGetCount()
            for index in range(count) if self._gpus is None else self._gpus:
                self._add(index, nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError as fault:
            self._shut()
            raise SourceError("absent", f"NVML does not work here ({fault})") from None
        if not self._counted and not self._integrated:
            self._shut()
            raise SourceError("absent", "NVML knows no GPU here")

    def _add(self, index: int, handle: Any) -> None:  # noqa: ANN401
        nvml = self._library
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self._counted[index] = handle
        except nvml.NVMLError_NotSupported:
            nvml.nvmlDeviceGetPowerUsage(handle)
            self._integrated[index] = handle

    async def read(self, now_s: float) -> Mapping[str, float]:
        """As `Meter.read`."""
        return await _asked(lambda: self._read(now_s))

    def _read(self, now_s: float) -> Mapping[str, float]:
        nvml = self._library
        try:
            counted = {
                index: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
                for index, handle in self._counted.items()
            }
            watts = math.fsum(
                nvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in self._integrated.values()
            )
        except nvml.NVMLError as fault:
            raise SourceError("lost", f"NVML cannot be read any more ({fault})") from None
        self._joules += math.fsum(self._counters.grown(counted).values())
        if self._last_w is not None:
            last_s, last_w = self._last_w
            self._joules += max(now_s - last_s, 0.0) * (watts + last_w) / 2
        self._last_w = (now_s, watts)
        return {"gpu": self._joules}

    async def close(self) -> None:
        """As `Meter.close`; a driver that hangs is left as it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await _asked(self._shut)

    def _shut(self) -> None:
        self._counted, self._integrated = {}, {}
        if self._open:
            self._open = False
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()
