"""What was recorded: request traces, grid carbon intensity, and the samples that ship with us.

====================  ==============================================================
``requests``          ``RequestTrace``: arrivals, lengths and block ids as arrays
``mooncake``          the reader of Mooncake's JSON lines, plain or gzipped
``grid``              ``GridSeries``: hourly carbon intensity, and its CSV reader
``samples``           what lies under ``data/``, with sources and licences
====================  ==============================================================
"""

from greencache.traces.grid import GridSeries, read_grid
from greencache.traces.mooncake import read_mooncake
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import (
    DEFAULT_TRACE,
    grid_zones,
    sample_grid,
    sample_names,
    sample_path,
    sample_rates_path,
)

__all__ = [
    "DEFAULT_TRACE",
    "GridSeries",
    "RequestTrace",
    "grid_zones",
    "read_grid",
    "read_mooncake",
    "sample_grid",
    "sample_names",
    "sample_path",
    "sample_rates_path",
]
