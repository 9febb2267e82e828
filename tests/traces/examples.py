"""A small valid trace in every format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def json_lines(*lines: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def csv_lines(header: str, *rows: Iterable[object]) -> bytes:
    return "".join([header + "\n", *(",".join(map(str, row)) + "\n" for row in rows)]).encode()


def parquet(columns: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """A Parquet file of columns that pyarrow can make arrays of."""
    table = pa.table(dict(columns)).replace_schema_metadata(dict(metadata or {}))
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def mooncake(timestamp: object = 0, tokens: int = 1100, **changes: Any) -> dict[str, Any]:
    hashes = list(range(-(-tokens // 512)))
    line = {"timestamp": timestamp, "input_length": tokens, "output_length": 5, "hash_ids": hashes}
    return line | changes


def bailian(chat: object, parent: object, timestamp: float, **changes: Any) -> dict[str, Any]:
    line = {
        "chat_id": chat,
        "parent_chat_id": parent,
        "timestamp": timestamp,
        "input_length": 40,
        "output_length": 7,
        "type": "text",
        "turn": 1,
        "hash_ids": [1, 2, 3],
    }
    return line | changes


def lookup(request: str, timestamp: float, **changes: Any) -> dict[str, Any]:
    line = {
        "timestamp": timestamp,
        "request_id": request,
        "model_name": "llama",
        "chunk_size": 256,
        "seq_len": 600,
        "dtypes": ["bfloat16"],
        "shapes": [[2, 32, 256, 1024]],
        "chunk_hashes": ["0x" + "ab" * 32, "0x" + "cd" * 32],
    }
    return line | changes


AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT_HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
BURSTGPT_3_HEADER = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
)

AGENTIC: dict[str, Sequence[Any]] = {
    "session": ["one", "one", "one", "two", "two"],
    "agent": ["main", "agent_001", "main", "main", "main"],
    "abs_t_s": [0.0, 4.0, 9.0, 0.0, 5.0],
    "input_length": [130, 200, 260, 128, 200],
    "output_length": [10, 20, 30, 40, 0],
    "hash_ids": [[1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2], [1, 2, 3]],
}

COLUMNS: dict[str, Sequence[Any]] = {
    "arrival_s": [10.0, 11.5, 11.5],
    "input_tokens": [100, 64, 40],
    "output_tokens": [1, 2, 3],
    "block_names": [[5, 6, 7, -8], [5, 6], [9]],
    "session": [7, 9, 7],
}

EXAMPLES: dict[str, bytes] = {
    "mooncake": json_lines(
        mooncake(500), mooncake(500, hash_ids=[0, 1, 9]), mooncake(2500, tokens=600)
    ),
    "bailian": json_lines(
        bailian(3, -1, 0.5), bailian(4, -1, 1.5, hash_ids=[1, 2, 9]), bailian(5, 3, 2.5)
    ),
    "lmcache": json_lines(lookup("a", 1.7e9), lookup("b", 1.7e9 + 2), lookup("a", 1.7e9 + 3)),
    "azure": csv_lines(
        AZURE_HEADER,
        ("2023-11-16 18:17:03.9799600", 4808, 10),
        ("2023-11-16 18:17:04.0319600", 3180, 8),
        ("2023-11-16 18:17:06.9799600", 110, 27),
    ),
    "burstgpt": csv_lines(
        BURSTGPT_HEADER,
        (5, "ChatGPT", 472, 18, 490, "Conversation log"),
        (45, "ChatGPT", 1087, 230, 1317, "Conversation log"),
        (118, "GPT-4", 417, 276, 693, "API log"),
    ),
    "agentic": parquet(AGENTIC),
    "columns": parquet(COLUMNS, {"greencache.block_tokens": "32", "greencache.name": "kept"}),
}


def write(folder: Path, content: bytes, name: str = "trace.dat") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
