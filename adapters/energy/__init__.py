"""Joules, where something measures them.

==============  ====================================================================
``base``        ``Meter``: what every source of energy is
``nvml``        GPUs, by NVIDIA's library
``rapl``        CPUs and DRAM, by Linux
``prometheus``  a counter in joules, from a server or an exporter's page
``monitor``     ``EnergyMonitor``: all of them, read in time
``choice``      ``energy_monitor``: the meters that work here, as the settings say
==============  ====================================================================

What nothing measures is modelled: `greencache.controller.modelled_energy`.
"""

from greencache.adapters.energy.base import COMPONENTS, Meter
from greencache.adapters.energy.choice import energy_monitor
from greencache.adapters.energy.monitor import EnergyMonitor, Taken

__all__ = ["COMPONENTS", "EnergyMonitor", "Meter", "Taken", "energy_monitor"]
