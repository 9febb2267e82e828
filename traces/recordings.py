"""The shipped request recordings as traces, and what to call each in results."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel
from greencache.errors import TraceError
from greencache.traces.files import read_lines
from greencache.traces.mooncake import read_mooncake
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import sample_path

__all__ = ["RECORDINGS", "Recording", "recorded_arrivals_s", "recorded_trace"]


class Recording(NamedTuple):
    """Where a shipped recording is from and under what terms."""

    source: str
    licence: str


RECORDINGS = {
    "mooncake-conversation": Recording(
        "kvcache-ai/Mooncake at 3b5a594, FAST25-release/traces/conversation_trace.jsonl",
        "Apache-2.0",
    ),
    "azure-2023-code": Recording(
        "Azure/AzurePublicDataset at b469a11, AzureLLMInferenceTrace_code.csv", "CC-BY-4.0"
    ),
    "agentic-sessions": Recording(
        "callanjfox/kv-cache-tester at 94f6046, half of its sessions", "Apache-2.0"
    ),
}


@kernel
def _lay_out(
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    order: NDArray[np.int64],
    before: NDArray[np.int64],
    names: NDArray[np.int32],
) -> None:
    """Chains of the requests in an order, each id moved by what lies before its session."""
    at = 0
    for r in order:
        for i in range(starts[r], starts[r + 1]):
            names[at] = ids[i] + before[r]
            at += 1


def _agentic_sessions() -> RequestTrace:
    """All sessions side by side, arrivals counted from the start of each.

    A request that was interrupted before its answer is left out.
    """
    from pyarrow import parquet

    columns = ["session", "abs_t_s", "input_length", "output_length", "hash_ids"]
    table = parquet.read_table(sample_path("agentic-sessions"), columns=columns)
    sessions = np.unique(table["session"].to_numpy(), return_inverse=True)[1]
    chains = table["hash_ids"].combine_chunks()
    starts, ids = chains.offsets.to_numpy().astype(np.int64), chains.values.to_numpy()
    # Ids are chained already, and numbered anew in each session: laid side by side they are unique.
    largest = np.zeros(sessions.max() + 1, np.int64)
    np.maximum.at(largest, sessions, np.maximum.reduceat(ids, starts[:-1]) + 1)
    before = np.cumsum(largest) - largest
    arrival_s, outputs = table["abs_t_s"].to_numpy(), table["output_length"].to_numpy()
    order = np.argsort(arrival_s, kind="stable")
    order = order[outputs[order] > 0]
    lengths = np.diff(starts)[order]
    names = np.empty(int(lengths.sum()), np.int32)
    _lay_out(ids, starts, order, before[sessions], names)
    return RequestTrace(
        name="agentic-sessions",
        arrival_s=arrival_s[order],
        input_tokens=table["input_length"].to_numpy().astype(np.int64)[order],
        output_tokens=outputs.astype(np.int64)[order],
        block_tokens=64,
        block_names=names,
        block_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sessions=sessions[order],
        chained=True,
    )


def recorded_trace(name: str) -> RequestTrace:
    """A shipped recording that has blocks: ``mooncake-conversation`` or ``agentic-sessions``."""
    return _agentic_sessions() if name == "agentic-sessions" else read_mooncake(sample_path(name))


def recorded_arrivals_s(name: str) -> NDArray[np.float64]:
    """Arrivals of a shipped recording, in seconds since it began."""
    if name != "azure-2023-code":
        return recorded_trace(name).arrival_s
    path = sample_path(name)
    rows = csv.reader(text.decode() for _, text in read_lines(path, TraceError))
    at = next(rows).index("TIMESTAMP")
    # Its fractions of a second have seven digits; Python reads six.
    times = [datetime.fromisoformat(row[at][:26]).replace(tzinfo=UTC).timestamp() for row in rows]
    return np.array(times) - times[0]
