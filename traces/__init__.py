"""What was recorded: request traces, grid carbon intensity, and the samples that ship with us.

====================  ==============================================================
``requests``          ``RequestTrace``: arrivals, lengths and block ids as arrays
``mooncake``          the reader of Mooncake's JSON lines, plain or gzipped
``grid``              ``GridSeries``: hourly carbon intensity, and its CSV reader
``loads``             ``LoadSeries``: request rates over days, and their CSV reader
``chains``            sessions and turns, found in the chains of blocks
``sessions``          libraries of recorded sessions
``compose``           a load and a library of sessions to a stream of days
``recordings``        the shipped request recordings, with sources and licences
``samples``           what lies under ``data/``
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
