"""The shipped request recordings as traces, and what to call each in results."""

from __future__ import annotations

from typing import NamedTuple

from greencache.traces.formats import read_trace
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import sample_path

__all__ = ["RECORDINGS", "Recording", "recorded_trace"]


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


def recorded_trace(name: str) -> RequestTrace:
    """A shipped recording."""
    return read_trace(sample_path(name), name=name)
