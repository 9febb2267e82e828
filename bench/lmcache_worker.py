"""Drives LMCache's storage backends for `greencache.bench.lmcache_side`, in its environment.

``PYTHON lmcache_worker.py``, of a Python that has LMCache: a request is a line of JSON on standard
input, ``{"op": NAME, ...}``, and its answer a line on standard output, ``{"seconds": S}`` or
``{"error": TEXT}``. It imports nothing of GreenCache, which is not installed there.

Batches are timed here, so the pipe takes no part. LMCache is used as its engine uses it: ``put``
copies into objects from its pool and hands them over, ``get`` takes objects out; torch runs one
thread, as more make its copies slower where cores are few.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

CPU, BUFFERED, DIRECT, RESP = "cpu", "buffered", "direct", "resp"

# A model whose KV takes 128 KiB a token (Llama 3 8B: 32 layers, 8 KV heads of 128, bf16), so that a
# chunk of LMCache is a block of any multiple of that.
LAYERS, KV_HEADS, HEAD_DIM = 32, 8, 128
TOKEN_BYTES = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2

STAMP_BYTES = 16
WRITES_END_WITHIN_S = 60.0


class Store:
    """LMCache's CPU, disk or remote backend, with room for the batches of a case."""

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.event_manager import EventManager
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.storage_manager import StorageManager

        self.torch = torch
        torch.set_num_threads(1)
        block_bytes, self.blocks = request["block_bytes"], request["blocks"]
        tokens = block_bytes // TOKEN_BYTES
        self.shape = torch.Size([2, LAYERS, tokens, KV_HEADS * HEAD_DIM])
        store = request["store"]
        self.on_disk, self.pooled = store in (BUFFERED, DIRECT), store != CPU
        self.folder = Path(request["folder"])
        store_gib = request["batches"] * self.blocks * block_bytes / 2**30
        config: dict[str, Any] = {"chunk_size": tokens, "local_cpu": not self.pooled}
        config["max_local_cpu_size"] = store_gib + 2 * block_bytes / 2**30
        if self.pooled:
            # The pool that blocks are written from and read into.
            config["max_local_cpu_size"] = request["pool_bytes"] / 2**30
            _take_pool_from(request["pool"])
        if store == RESP:
            config["remote_url"] = request["url"]
            config["save_unfull_chunk"] = False
            config["extra_config"] = {
                "save_chunk_meta": False,
                "resp_num_threads": request["depth"],
            }
        if self.on_disk:
            config["local_disk"] = f"file://{self.folder}/"
            config["max_local_disk_size"] = store_gib
            config["extra_config"] = {
                "use_odirect": store == DIRECT,
                "disk_io_threads": request["depth"],
            }
        metadata = LMCacheMetadata(
            model_name="benchmark",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.bfloat16,
            kv_shape=(LAYERS, 2, tokens, KV_HEADS, HEAD_DIM),
            role="worker",
            chunk_size=tokens,
        )
        self.manager = StorageManager(
            LMCacheEngineConfig.from_defaults(**config), metadata, EventManager()
        )
        name = {CPU: "LocalCPUBackend", RESP: "RemoteBackend"}.get(store, "LocalDiskBackend")
        self.backend = self.manager.storage_backends[name]
        pool = self.backend.local_cpu_backend if self.pooled else self.backend
        pool.memory_allocator.buffer.zero_()  # so that no first touch is timed
        self.source = torch.randint(0, 256, (self.blocks, block_bytes), dtype=torch.uint8)
        self.sink = torch.zeros_like(self.source)
        self.keys: dict[int, list[Any]] = {}
        self.names = itertools.count()

    def _new_keys(self, batch: int) -> list[Any]:
        from lmcache.utils import CacheEngineKey

        self.keys[batch] = [
            CacheEngineKey("benchmark", 1, 0, next(self.names), self.torch.bfloat16)
            for _ in range(self.blocks)
        ]
        return self.keys[batch]

    def _stamp(self, key: Any) -> Any:
        name = int(key.chunk_hash).to_bytes(STAMP_BYTES, "little")
        return self.torch.frombuffer(bytearray(name), dtype=self.torch.uint8)

    def _bytes_of(self, taken: Any) -> Any:
        return taken.tensor.view(self.torch.uint8).reshape(-1)

    def put(self, batch: int) -> float:
        """Store new blocks for a batch; seconds."""
        keys = self._new_keys(batch)
        for key, block in zip(keys, self.source, strict=True):
            block[:STAMP_BYTES] = self._stamp(key)
        return self._put_from_pool(keys) if self.pooled else self._put_in_memory(keys)

    def _filled(self, block: Any) -> Any:
        taken = self.manager.allocate(self.shape, self.torch.bfloat16)
        self._bytes_of(taken).copy_(block)
        return taken

    def _put_in_memory(self, keys: list[Any]) -> float:
        began_s = time.perf_counter()
        taken = [self._filled(block) for block in self.source]
        self.manager.batched_put(keys, taken)
        return time.perf_counter() - began_s

    def _put_from_pool(self, keys: list[Any]) -> float:
        """Time from handing objects over until all are written.

        They are in the pool before that: an engine's blocks come from the GPU into it.
        """
        taken = [self._filled(block) for block in self.source]
        written = itertools.count(1)
        done = threading.Event()

        def note(_: Any) -> None:
            if next(written) == len(keys):
                done.set()

        began_s = time.perf_counter()
        self.backend.batched_submit_put_task(keys, taken, on_complete_callback=note)
        if not done.wait(WRITES_END_WITHIN_S):
            raise RuntimeError(f"writes did not end within {WRITES_END_WITHIN_S:.0f} s")
        seconds = time.perf_counter() - began_s
        for each in taken:
            each.ref_count_down()
        return seconds

    def get(self, batch: int) -> float:
        """Read and check what was stored for a batch; seconds."""
        keys = self.keys[batch]
        began_s = time.perf_counter()
        if self.pooled:
            taken = self.backend.batched_get_blocking(keys)
        else:
            taken = self.manager.batched_get(keys)
            for block, each in zip(self.sink, taken, strict=True):
                block.copy_(self._bytes_of(each))
                each.ref_count_down()
        seconds = time.perf_counter() - began_s
        got = [self._bytes_of(each) for each in taken] if self.pooled else self.sink
        for key, block in zip(keys, got, strict=True):
            if not bool((block[:STAMP_BYTES] == self._stamp(key)).all()):
                raise RuntimeError("read back a wrong block")
        if self.pooled:
            for each in taken:
                each.ref_count_down()
        return seconds

    def settle(self) -> float:
        """Flush what was stored, in seconds, and drop it from the page cache."""
        if not self.on_disk:
            return 0.0
        seconds = 0.0
        for path in sorted(self.folder.iterdir()):
            file = os.open(path, os.O_RDONLY)
            began_s = time.perf_counter()
            os.fsync(file)
            seconds += time.perf_counter() - began_s
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        return seconds

    def close(self) -> None:
        """Give everything back."""
        self.manager.close()


def _take_pool_from(path: str) -> None:
    """Let LMCache's pool stand in a memory file, the same as others read into and write from.

    What it frees at the end is given back with the mapping.
    """
    import torch
    from lmcache.v1 import memory_management

    with Path(path).open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)

    def allocate(size: int, *_: Any, **__: Any) -> Any:
        return torch.frombuffer(mapped, dtype=torch.uint8, count=size)

    memory_management._allocate_cpu_memory = allocate
    memory_management._free_cpu_memory = lambda *_, **__: None


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    store: Store | None = None
    for line in requests:
        request = json.loads(line)
        answer: dict[str, Any] = {"seconds": 0.0}
        try:
            if request["op"] == "open":
                store = Store(request)
            elif store is None:
                raise RuntimeError("no store is open")
            elif request["op"] == "put":
                answer["seconds"] = store.put(request["batch"])
            elif request["op"] == "get":
                answer["seconds"] = store.get(request["batch"])
            elif request["op"] == "settle":
                answer["seconds"] = store.settle()
            else:
                store.close()
                store = None
        except Exception as fault:  # whatever it was, the other side has to hear of it
            answer = {"error": f"{type(fault).__name__}: {fault}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve standard input, with standard output kept from whatever else prints."""
    os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
    os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
    os._exit(0)  # LMCache leaves threads that would keep the process


if __name__ == "__main__":
    main()
