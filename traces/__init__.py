"""What was recorded: request traces, grid carbon intensity, and the samples that ship with us.

====================  ==============================================================
``requests``          ``RequestTrace``: arrivals, lengths and block ids as arrays
``formats``           reading a trace in any format, recognised by its content
``batches``           ``Batch``: some thousand requests at a time, for traces of any length
``columns``           our own Parquet layout, and its writer
``statistics``        what a trace is in numbers: rates, lengths, reuse, sessions
``grid``              ``GridSeries``: hourly carbon intensity, and its CSV reader
``loads``             ``LoadSeries``: request rates over days, and their CSV reader
``chains``            sessions and turns, found in the chains of blocks
``sessions``          libraries of recorded sessions
``compose``           a load and a library of sessions to a stream of days
``recordings``        the shipped request recordings, with sources and licences
``samples``           what lies under ``data/``
====================  ==============================================================
"""

from greencache.traces.batches import Batch
from greencache.traces.columns import write_columns
from greencache.traces.formats import FORMATS, open_batches, read_batches, read_trace
from greencache.traces.grid import GridSeries, read_grid
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import (
    DEFAULT_TRACE,
    grid_zones,
    sample_grid,
    sample_names,
    sample_path,
    sample_rates_path,
)
from greencache.traces.statistics import TraceStatistics, trace_statistics

__all__ = [
    "DEFAULT_TRACE",
    "FORMATS",
    "Batch",
    "GridSeries",
    "RequestTrace",
    "TraceStatistics",
    "grid_zones",
    "open_batches",
    "read_batches",
    "read_grid",
    "read_trace",
    "sample_grid",
    "sample_names",
    "sample_path",
    "sample_rates_path",
    "trace_statistics",
    "write_columns",
]
