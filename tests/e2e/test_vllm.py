"""Real vLLM engines on the CPU store and find KV in a real daemon: what they say stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from greencache.bench.vllm_engine import Engine, connector
from greencache.client import Client
from tests.e2e.conftest import (
    EXTERNAL_HITS,
    OUR_HITS,
    StartEngine,
    check_hits,
    environment,
    one_by_one,
    prompts,
)
from tests.service.daemons import RunningDaemon, settled

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _stored(
    vllm_python: Path,
    model: Path,
    daemon: RunningDaemon,
    expected: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A first engine has stored all prompts, and said what one without the connector says."""
    with Engine(
        vllm_python,
        tmp_path_factory.mktemp("first") / "engine.log",
        environment(GREENCACHE_SERVE__SOCKET=str(daemon.socket)),
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=8,
        prefix_caching_hash_algo="sha256_cbor",
        disable_log_stats=False,
        kv_transfer_config=connector(),
    ) as first:
        assert one_by_one(first) == expected
        hits = first.metrics()
        # Its own memory has all of the last prompt but the block of its last token.
        assert hits[OUR_HITS] == hits[EXTERNAL_HITS] <= 128


@pytest.mark.parametrize("load", ["async", "sync"])
def test_a_fresh_engine_finds_what_another_stored_and_says_the_same(
    engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]], load: str
) -> None:
    # What is loaded synchronously is not to be computed with a step ahead.
    arguments = {"async_scheduling": False} if load == "sync" else {}
    second = engine(daemon, {"GREENCACHE_VLLM__LOAD": load}, **arguments)
    longest = second.generate([prompts()[0]])
    assert longest["cached"][0] >= 1792  # all of it but the block of the last token
    assert one_by_one(second) == expected
    check_hits(second)


def test_prompts_in_chunks_and_preempted_ones_say_the_same(
    engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    """Little KV memory for many long prompts at a time: some are preempted and begin again."""
    chunked = engine(
        daemon, max_num_batched_tokens=256, num_gpu_blocks_override=40, max_model_len=4096
    )
    assert one_by_one(chunked) == expected
    together = chunked.generate(prompts(8) + prompts(9), max_tokens=200)
    again = chunked.generate(prompts(8) + prompts(9), max_tokens=200)
    assert chunked.metrics()["vllm:num_preemptions"] > 0
    assert [len(each) for each in together["tokens"]] == [len(each) for each in again["tokens"]]
    assert one_by_one(chunked) == expected
    check_hits(chunked)


def test_a_salt_keeps_tenants_apart(
    engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    tenant = engine(daemon)
    salted = tenant.generate([prompts()[0]], salt="another tenant")
    assert salted["cached"] == [0]
    assert salted["tokens"] == [expected[0]]
    assert tenant.metrics()[EXTERNAL_HITS] == 0


def test_adapters_find_their_own_kv_and_nothing_of_others(
    engine: StartEngine, daemon: RunningDaemon, model: Path, other_model: Path
) -> None:
    """LoRA: one adapter, another one of the same shape, and none."""
    served = engine(daemon, enable_lora=True, max_loras=2, max_lora_rank=8)
    prompt = [prompts(11)[0]]
    ways: list[dict[str, object]] = [
        {"lora": ["one", 1, str(model / "adapter")]},
        {"lora": ["other", 2, str(other_model / "adapter")]},
        {},
    ]
    first = [served.generate(prompt, **way) for way in ways]
    assert [each["cached"] for each in first] == [[0]] * 3
    assert len({str(each["tokens"]) for each in first}) == 3
    assert settled(lambda: bool(served.ask(do="reset")["reset"]), 60.0)
    again = [served.generate(prompt, **way) for way in ways]
    assert all(each["cached"][0] >= 1792 for each in again)
    assert [each["tokens"] for each in again] == [each["tokens"] for each in first]
    check_hits(served)


def test_models_of_equal_shape_never_find_each_others_kv(
    engine: StartEngine, daemon: RunningDaemon, other_model: Path, expected: list[list[int]]
) -> None:
    other = engine(daemon, model=str(other_model))
    answer = other.generate([prompts()[0]])
    assert answer["cached"] == [0]
    assert answer["tokens"] != [expected[0]]
    assert other.metrics()[EXTERNAL_HITS] == 0


def test_loaded_kv_is_what_the_engine_computes_with(
    engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    """The control: zeros in its place change what is said."""
    zeroing = engine(
        daemon,
        transfer={
            "kv_connector": "ZeroingConnector",
            "kv_connector_module_path": "tests.e2e.zeroing",
        },
    )
    assert zeroing.generate([prompts()[0]])["tokens"] != [expected[0]]
    assert zeroing.metrics()[EXTERNAL_HITS] > 0


def test_ranks_store_and_find_their_shards(
    engine: StartEngine, daemon: RunningDaemon, expected: list[list[int]]
) -> None:
    """Tensor parallelism over two processes, on a core each."""
    two = {"tensor_parallel_size": 2}
    cores = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    first = engine(daemon, cores, **two)
    alone = one_by_one(first)
    assert first.metrics()[EXTERNAL_HITS] <= 128
    first.close()
    second = engine(daemon, cores, **two)
    assert one_by_one(second) == alone
    hits = second.metrics()
    # Ranks that wait for each other spin: on busy cores nobody else may run for half a minute, and
    # a load is late. It is computed then, and counted as found all the same.
    assert hits[EXTERNAL_HITS] == hits[OUR_HITS] > 1792
    del expected  # sums over two ranks differ from one rank's in their last bits


def test_an_engine_starts_a_daemon_of_its_own_which_mirrors_it_and_ends_with_it(
    engine: StartEngine, tmp_path: Path
) -> None:
    socket = tmp_path / "own" / "daemon.sock"
    settings = {"SOCKET": str(socket), "DRAM": "256MiB", "METRICS_PORT": "0"}
    more = {f"GREENCACHE_SERVE__{name}": value for name, value in settings.items()}
    own = engine(
        None, more, kv_transfer_config=connector(), num_gpu_blocks_override=40, max_model_len=4096
    )
    own.generate(prompts()[:2])
    own.generate([prompts()[0]])
    assert own.ask(do="reset")["reset"]
    assert own.generate([prompts()[0]])["cached"][0] > 0
    counted = own.metrics()

    def mirrored() -> bool:
        told = _page(_status(socket)["metrics"]["port"])
        return (
            told["greencache_hit_tokens_total", "hbm"] == counted["vllm:prefix_cache_hits"] > 0
            and told["greencache_hit_tokens_total", "dram"] == counted[EXTERNAL_HITS] > 0
        )

    assert settled(mirrored, 60.0), "hits are told a second after requests have ended"
    hbm = _status(socket)["hbm"]
    block_bytes = 2 * 4 * 4 * 64 * 4 * 128  # K and V, layers, heads, elements of 4 bytes, tokens
    assert hbm["capacity_bytes"] == 39 * block_bytes  # one of vLLM's stands for none
    assert hbm["used_bytes"] == hbm["blocks"] * block_bytes
    assert hbm["blocks"] == 16  # full ones of the only prompt that it has not forgotten
    assert settled(lambda: _status(socket)["hbm"]["kept_bytes"] == 0, 60.0)
    own.close()
    assert settled(lambda: not socket.exists(), 60.0)


def _status(socket: Path) -> dict[str, Any]:
    with Client(4096, socket=socket, timeout_s=20.0) as client:
        return client.status()


def _page(port: int) -> dict[tuple[str, ...], float]:
    """Values of a daemon's metrics, by name and labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    families = text_string_to_metric_families(text)
    return {(s.name, *s.labels.values()): s.value for each in families for s in each.samples}
