"""Energy of CPUs and DRAM by RAPL, which Linux shows under ``/sys/class/powercap``.

Each zone is a directory ``intel-rapl:N`` (of AMD's CPUs too) with ``name``, ``energy_uj``, a
counter in microjoules, and ``max_energy_range_uj``, where it wraps: at 300 W some do so every
quarter of an hour. Packages and DRAM are summed: ``core`` and ``uncore`` are parts of a package,
``psys`` has everything once more, and ``intel-rapl-mmio`` shows the same packages again.

Since Linux 5.10 only root reads ``energy_uj`` (CVE-2020-8694).

Reference: https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greencache.adapters.counters import Counters
from greencache.errors import SourceError

__all__ = ["RaplMeter"]

_MOST_W = 1000.0
"""Of one package; none has so much, so its counter is read before it wraps twice."""


@dataclass(frozen=True)
class _Zone:
    path: Path
    component: str
    wraps_at_uj: float


class RaplMeter:
    """Energy of all CPU packages of this host, and of its DRAM where that is shown.

    Parameters
    ----------
    root:
        Where the zones are.
    """

    source = "rapl"

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._root = root
        self._zones: list[_Zone] = []
        self._counters: Counters[_Zone] = Counters()
        self._joules: dict[str, float] = {}

    @property
    def components(self) -> frozenset[str]:
        """As `Meter.components`."""
        return frozenset(zone.component for zone in self._zones)

    @property
    def longest_s(self) -> float:
        """As `Meter.longest_s`: half the time in which a counter may come round."""
        least_uj = min((zone.wraps_at_uj for zone in self._zones), default=math.inf)
        return least_uj / 1e6 / _MOST_W / 2

    async def open(self) -> None:
        """As `Meter.open`."""
        for path in sorted(self._root.glob("intel-rapl:*")):
            name = _text(path / "name")
            component = "cpu" if name.startswith("package") else "dram" if name == "dram" else None
            if component is not None:
                wraps_at = _number(path / "max_energy_range_uj")
                _number(path / "energy_uj")
                self._zones.append(_Zone(path / "energy_uj", component, wraps_at))
        if not self._zones:
            raise SourceError("absent", f"{self._root} shows no CPU package: no RAPL here")
        self._joules = dict.fromkeys(self.components, 0.0)

    async def read(self, now_s: float) -> Mapping[str, float]:
        """As `Meter.read`."""
        values = {zone: _number(zone.path) for zone in self._zones}
        wraps_at = {zone: zone.wraps_at_uj for zone in self._zones}
        grown = self._counters.grown(values, wraps_at=wraps_at)
        for zone in self._zones:
            self._joules[zone.component] += grown[zone] / 1e6
        return dict(self._joules)

    async def close(self) -> None:
        """As `Meter.close`."""
        self._zones = []


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except PermissionError:
        raise SourceError(
            "denied",
            f"{path} may be read by root only: let the daemon's group read it by a udev rule",
        ) from None
    except (OSError, UnicodeDecodeError) as fault:
        raise SourceError("lost", f"{path} cannot be read ({fault})") from None


def _number(path: Path) -> float:
    text = _text(path)
    if not text.isdecimal():
        raise SourceError("garbage", f"{path} holds {text[:40]!r}, not a number of microjoules")
    return float(text)
