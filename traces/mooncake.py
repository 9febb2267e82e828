"""Reader of Mooncake's request traces: one JSON object a line, plain or gzipped.

The format is that of the traces published with Mooncake (Qin et al., FAST 2025): ``timestamp`` in
milliseconds, ``input_length`` and ``output_length`` in tokens, and ``hash_ids``, one number for
each 512 tokens of the prompt, equal where the whole prefix up to there is equal. The last one
nearly always names a partial block.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec
import numpy as np

from greencache.errors import TraceError
from greencache.traces.files import read_lines
from greencache.traces.requests import RequestTrace

__all__ = ["MOONCAKE_BLOCK_TOKENS", "read_mooncake"]

MOONCAKE_BLOCK_TOKENS = 512

_LARGEST = 2**62
"""Bound on every number in a line, so that none overflows the arrays."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


def _complaint(line: _Line, block_tokens: int, previous_ms: float) -> str | None:
    """What is wrong with a line that parsed, or None."""
    if not 0 <= line.timestamp < _LARGEST:
        return f"timestamp is {line.timestamp:g}; it must be 0 or more milliseconds"
    if line.timestamp < previous_ms:
        return f"timestamp goes back from {previous_ms:g} to {line.timestamp:g} ms"
    if not 1 <= line.input_length < _LARGEST:
        return f"input_length is {line.input_length}; it must be at least 1"
    if not 1 <= line.output_length < _LARGEST:
        return f"output_length is {line.output_length}; it must be at least 1"
    full, with_partial = line.input_length // block_tokens, -(-line.input_length // block_tokens)
    if not full <= len(line.hash_ids) <= with_partial:
        return (
            f"{len(line.hash_ids)} hash_ids for {line.input_length} tokens; "
            f"blocks of {block_tokens} tokens make that {with_partial}"
        )
    if line.hash_ids and not -_LARGEST < min(line.hash_ids) <= max(line.hash_ids) < _LARGEST:
        return "a hash_id does not fit in 63 bits"
    return None


def read_mooncake(
    path: Path | str,
    *,
    block_tokens: int = MOONCAKE_BLOCK_TOKENS,
    skip_bad: bool = False,
) -> RequestTrace:
    """Read a trace in Mooncake's format.

    Parameters
    ----------
    path:
        The file, plain or gzipped.
    block_tokens:
        Tokens for which each entry of ``hash_ids`` stands.
    skip_bad:
        Leave malformed lines out and count them, instead of raising.

    Raises
    ------
    TraceError
        If the file cannot be read, has no request, or (without ``skip_bad``) has a malformed line.
    """
    path = Path(path)
    decoder = msgspec.json.Decoder(_Line)
    arrival_ms, inputs, outputs = array("d"), array("q"), array("q")
    names, starts = array("q"), array("q", [0])
    skipped = 0
    previous_ms = 0.0
    for number, text in read_lines(path, TraceError):
        try:
            line = decoder.decode(text)
            complaint = _complaint(line, block_tokens, previous_ms)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            complaint = f"not a request in Mooncake's format ({fault})"
        if complaint is not None:
            if not skip_bad:
                raise TraceError(path, complaint, line=number)
            skipped += 1
            continue
        previous_ms = line.timestamp
        arrival_ms.append(line.timestamp)
        inputs.append(line.input_length)
        outputs.append(line.output_length)
        names.extend(line.hash_ids)
        starts.append(len(names))
    if not arrival_ms:
        reason = f"no request in it; {skipped} malformed lines were skipped" if skipped else "empty"
        raise TraceError(path, reason)
    times_s = np.array(arrival_ms) / 1e3
    return RequestTrace(
        name=path.name.removesuffix(".gz").removesuffix(".jsonl"),
        arrival_s=times_s - times_s[0],
        input_tokens=np.array(inputs, np.int64),
        output_tokens=np.array(outputs, np.int64),
        block_tokens=block_tokens,
        block_names=np.array(names, np.int64),
        block_starts=np.array(starts, np.int64),
        skipped=skipped,
    )
