"""``GreenCacheConnector``: what vLLM calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from greencache.adapters.paged.attach import attach
from greencache.adapters.paged.jobs import Report, Step
from greencache.adapters.paged.mirror import Mirror
from greencache.adapters.paged.planning import Planning
from greencache.adapters.paged.statistics import COUNTED, Counts
from greencache.adapters.paged.telling import Telling
from greencache.adapters.paged.transfers import Transfers
from greencache.adapters.paged.versions import check_version
from greencache.adapters.vllm.engine import (
    SUPPORTED,
    pages_of,
    pinning_of,
    shape_of,
    shard_bytes_of,
    state_of,
)
from greencache.settings import load_settings

__all__ = ["GreenCacheConnector"]


class StepMetadata(KVConnectorMetadata):
    """A `Step`, as vLLM carries it."""

    def __init__(self, step: Step) -> None:
        self.step = step


class WorkerReport(KVConnectorWorkerMetadata):
    """A `Report`, as vLLM carries it."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """Both ranks' together."""
        assert isinstance(other, WorkerReport)
        return WorkerReport(self.report.merged(other.report))


class Statistics(KVConnectorStats):
    """What was counted, as vLLM carries it."""

    data: dict[str, float]

    def reset(self) -> None:
        """Count from nothing."""
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Both together."""
        names = self.data.keys() | other.data.keys()
        return Statistics({n: self.data.get(n, 0) + other.data.get(n, 0) for n in names})

    def reduce(self) -> dict[str, int | float]:
        """For vLLM's log."""
        return {name: round(amount, 3) for name, amount in self.data.items()}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not any(self.data.values())


class PrometheusCounters(KVConnectorPromMetrics):
    """What was counted, on vLLM's Prometheus page."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters: dict[str, dict[int, Any]] = {}
        for name, meaning in COUNTED.items():
            counter = self._counter_cls(
                name=f"vllm:greencache_{name}", documentation=meaning, labelnames=labelnames
            )
            self._counters[name] = {
                engine: counter.labels(*labels) for engine, labels in per_engine_labelvalues.items()
            }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Add what was counted."""
        for name, amount in transfer_stats_data.items():
            if amount and name in self._counters:
                self._counters[name][engine_idx].inc(amount)


class GreenCacheConnector(KVConnectorBase_V1, SupportsHMA):
    """Keeps the engine's KV in the host's GreenCache daemon.

    vLLM makes one in its scheduler and one in each worker.
    """

    _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        settings = load_settings()
        own = settings.vllm
        check_version("vLLM", vllm.__version__, SUPPORTED, any_version=own.any_version)
        # The scheduler reads it after this: otherwise what cannot be loaded ends its request.
        self._kv_transfer_config.kv_load_failure_policy = "recompute"
        self._asynchronous = own.load == "async"
        self._shape = shape_of(
            vllm_config, kv_cache_config, own.block_tokens, asynchronous=self._asynchronous
        )
        self._counts = Counts()
        ranks, rank = self._shape.ranks, vllm_config.parallel_config.rank
        engine_id = str(self._kv_transfer_config.engine_id)
        pins = own.pin and role is KVConnectorRole.WORKER
        self._client = attach(
            settings,
            block_bytes=ranks * shard_bytes_of(kv_cache_config, self._shape.per_block),
            shards=ranks,
            shard=rank if role is KVConnectorRole.WORKER else None,
            group=hashlib.sha256(engine_id.encode()).digest()[:16],
            name=f"vllm {vllm_config.model_config.served_model_name} {role.name.lower()}",
            # A worker waits in a thread of its own.
            timeout_s=own.deadline if role is KVConnectorRole.SCHEDULER else own.load_deadline,
            pinning=pinning_of(self._counts) if pins else None,
        )
        (self._group,) = kv_cache_config.transfer_group_ids
        self._load_deadline_s = own.load_deadline
        self._planning: Planning | None = None
        self._telling: Telling | None = None
        self._mirror: Mirror | None = None
        self._transfers: Transfers | None = None
        if role is KVConnectorRole.SCHEDULER:
            self._planning = Planning(self._client, self._shape, self._counts)
            self._telling = Telling(self._client, self._counts)

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that is dropped is a miss, no more."""
        return False

    # The scheduler's side.

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """As vLLM's."""
        assert self._telling is not None
        block_bytes = self._shape.ranks * shard_bytes_of(self._kv_cache_config, 1)
        plans = self._plans
        self._mirror = Mirror(
            lambda: state_of(gpu_block_pool), block_bytes, lambda: plans.waiting_tokens
        )
        self._telling.mirror = self._mirror

    def on_new_request(self, request: Any) -> None:
        """As vLLM's."""
        self._plans.arrived(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """As vLLM's."""
        tokens = self._plans.match(request, num_computed_tokens)
        return tokens, self._asynchronous and tokens > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """As vLLM's."""
        ids = blocks.get_block_ids()[self._group] if num_external_tokens else []
        self._plans.allocated(request, ids, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """As vLLM's."""
        if self._mirror is not None:
            self._mirror.planned()
        computed = {
            each.req_id: each.num_computed_tokens for each in scheduler_output.scheduled_new_reqs
        }
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        after = {
            name: computed[name] + tokens
            for name, tokens in scheduler_output.num_scheduled_tokens.items()
        }
        state = scheduler_output.kv_connector_block_state
        return StepMetadata(
            self._plans.step(after, lambda name: state.get_block_ids(name)[self._group])
        )

    def update_connector_output(self, connector_output: Any) -> None:
        """As vLLM's."""
        self._plans.stepped()
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, WorkerReport):
            self._plans.reported(report.report)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        """As vLLM's."""
        keep = self._plans.finished(request, block_ids)
        if self._telling is not None:
            self._telling.tell(self._plans.take_seen())
        return keep, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        """As vLLM's."""
        return self.request_finished(request, block_ids[self._group])

    def has_pending_push_work(self) -> bool:
        """As vLLM's: steps go on until workers have said what they ended."""
        return self._planning is not None and not self._planning.idle

    @property
    def _plans(self) -> Planning:
        assert self._planning is not None, "the scheduler's side was asked of a worker"
        return self._planning

    # The workers' side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """As vLLM's."""
        shape = self._shape
        self._transfers = Transfers(
            self._client,
            pages_of(kv_caches, self._kv_cache_config, shape.per_block),
            shape.per_block,
            asynchronous=self._asynchronous,
            counts=self._counts,
            ready=_computed(next(iter(kv_caches.values())).device),
            load_deadline_s=self._load_deadline_s,
        )

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """As vLLM's."""
        assert isinstance(kv_connector_metadata, StepMetadata)
        self._moves.before(kv_connector_metadata.step)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """As vLLM's."""
        self._moves.load(self._now.loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """As vLLM's: nothing, as loads do not run layer by layer."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """As vLLM's: nothing, as a block is saved when all its layers are computed."""

    def wait_for_save(self) -> None:
        """As vLLM's."""
        self._moves.save(self._now.saves, self._now.finished)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        """As vLLM's."""
        return self._moves.ended()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """As vLLM's."""
        return self._moves.failed_block_ids()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """As vLLM's."""
        report = self._moves.report()
        return WorkerReport(report) if report else None

    @property
    def _moves(self) -> Transfers:
        assert self._transfers is not None, "KV memory has not been registered"
        return self._transfers

    @property
    def _now(self) -> Step:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        return metadata.step

    # Both.

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """As vLLM's."""
        counted = self._counts.take()
        return Statistics(counted) if counted else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats:
        """As vLLM's."""
        return Statistics(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVConnectorPromMetrics:
        """As vLLM's."""
        return PrometheusCounters(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def take_events(self) -> Iterable[Any]:
        """As vLLM's."""
        return ()

    def shutdown(self) -> None:
        """As vLLM's."""
        if self._transfers is not None:
            self._transfers.close()
        if self._planning is not None:
            self._planning.close()
        if self._telling is not None:
            self._telling.close()
        self._client.close()


def _computed(device: torch.device) -> Callable[[], Callable[[], None]]:
    """What notes, after a step was launched, how to wait until the device has computed it."""
    if device.type != "cuda":
        return lambda: lambda: None

    def note() -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record()
        wait: Callable[[], None] = event.synchronize
        return wait

    return note
