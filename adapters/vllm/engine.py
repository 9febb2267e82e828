"""What the connector needs to know of the engine: its versions, its layout, its memory.

All that depends on vLLM's own structures, beside the connector's methods, stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greencache.adapters.paged.mirror import PoolState
from greencache.adapters.paged.names import namespace_of
from greencache.adapters.paged.pages import DevicePages, HostPages, Pages
from greencache.adapters.paged.pinned import CudaPinning
from greencache.adapters.paged.planning import Shape
from greencache.adapters.paged.statistics import Counts
from greencache.client.pinning import Pinning
from greencache.errors import RefusedError

__all__ = ["SUPPORTED", "pages_of", "pinning_of", "shape_of", "shard_bytes_of", "state_of"]

SUPPORTED = ("0.32.0", "0.33")
"""Versions of vLLM: from the first, which is tested with, up to, not including, the second. Its
interface for connectors calls itself experimental."""


def _the_group(kv_cache_config: Any) -> Any:
    """The one group of layers whose KV is stored.

    Raises
    ------
    RefusedError
        If there is KV that cannot be: of sliding windows and states, earlier parts are gone when a
        prefix is asked for.
    """
    from vllm.v1.kv_cache_interface import FullAttentionSpec, UniformTypeKVCacheSpecs

    groups = list(kv_cache_config.transfer_groups)
    for group in groups:
        specs = group.kv_cache_spec
        layers = (
            specs.kv_cache_specs.values() if isinstance(specs, UniformTypeKVCacheSpecs) else [specs]
        )
        unfit = {type(spec).__name__ for spec in layers if not isinstance(spec, FullAttentionSpec)}
        if unfit:
            raise RefusedError(
                f"GreenCache cannot hold KV of {', '.join(sorted(unfit))} (layers"
                f" {', '.join(group.layer_names[:3])}, ...): run without the connector, or try"
                " --disable-hybrid-kv-cache-manager, which keeps sliding windows as full attention"
            )
    if len(groups) != 1:
        raise RefusedError(
            f"GreenCache holds one group of KV layers, this model has {len(groups)}: run without"
            " the connector"
        )
    return groups[0]


def _layer_specs(group: Any) -> dict[str, Any]:
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    spec = group.kv_cache_spec
    if isinstance(spec, UniformTypeKVCacheSpecs):
        return dict(spec.kv_cache_specs)
    return dict.fromkeys(group.layer_names, spec)


def shard_bytes_of(kv_cache_config: Any, per_block: int) -> int:
    """Bytes that one rank keeps of a block of the store."""
    specs = _layer_specs(_the_group(kv_cache_config)).values()
    return per_block * sum(int(spec.page_size_bytes) for spec in specs)


def state_of(pool: Any) -> PoolState:
    """What vLLM's ``BlockPool`` has; each number is one that it keeps, read at once."""
    blocks = pool.num_gpu_blocks - 1  # one stands for none
    return PoolState(
        blocks,
        min(len(pool.cached_block_hash_to_block), blocks),
        max(blocks - pool.get_num_free_blocks(), 0),
    )


def shape_of(
    vllm_config: Any, kv_cache_config: Any, block_tokens: int, *, asynchronous: bool
) -> Shape:
    """How prompts are divided, and under which names.

    Raises
    ------
    RefusedError
        If the engine runs in a way whose KV cannot be stored.
    """
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    if parallel.pipeline_parallel_size > 1 or parallel.decode_context_parallel_size > 1:
        raise RefusedError(
            "GreenCache stores KV of tensor parallelism, not of pipeline or context parallelism"
        )
    if not cache.enable_prefix_caching:
        raise RefusedError("GreenCache needs vLLM's prefix caching: leave it on")
    if not asynchronous and vllm_config.scheduler_config.async_scheduling:
        raise RefusedError(
            "GREENCACHE_VLLM__LOAD=sync needs --no-async-scheduling: after a load has failed, vLLM"
            " goes on with what the step already planned computes from it"
        )
    group = _the_group(kv_cache_config)
    engine_tokens = cache.block_size
    per_block = max(1, block_tokens // engine_tokens)
    return Shape(
        engine_tokens=engine_tokens,
        per_block=per_block,
        ranks=parallel.world_size,
        namespace=namespace_of(_identity(vllm_config, group, per_block)),
        asynchronous=asynchronous,
    )


def _identity(vllm_config: Any, group: Any, per_block: int) -> dict[str, object]:
    """All that changes what KV bytes mean and is not in the engine's own block hashes."""
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import resolve_none_hash_seed

    model, cache = vllm_config.model_config, vllm_config.cache_config
    parallel = vllm_config.parallel_config
    algorithm = cache.prefix_caching_hash_algo
    return {
        "format": 1,
        "model": _place(model.model),
        "revision": model.revision,
        "config": model.hf_config.to_json_string(),
        "load_format": vllm_config.load_config.load_format,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "kv_dtype": cache.cache_dtype,
        "hash": algorithm,
        "seed": resolve_none_hash_seed(get_hash_fn_by_name(algorithm)),
        "engine_tokens": cache.block_size,
        "per_block": per_block,
        "layers": {name: repr(spec) for name, spec in _layer_specs(group).items()},
        "layout": cache.kv_cache_layout,
        "packing": _packing(model, cache),
        "tensor_parallel": parallel.tensor_parallel_size,
    }


def _place(model: str) -> str:
    """A model's name; of one in a folder, the whole path: ``./model`` is another one elsewhere."""
    path = Path(model)
    return str(path.resolve()) if path.exists() else model


def _packing(model: Any, cache: Any) -> str:
    """How bytes of a page are ordered beyond its shape: on CPUs, by their instruction set."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return str(current_platform.device_type)
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return f"cpu {_get_attn_isa(model.dtype, cache.block_size, model.get_head_size())}"


def pinning_of(counts: Counts) -> Pinning | None:
    """What pins the daemon's memory in a worker, which runs on the current device; CUDA only."""
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    return CudaPinning(torch.device("cuda", torch.cuda.current_device()), counts)


def pages_of(kv_caches: dict[str, Any], kv_cache_config: Any, per_block: int) -> Pages:
    """The engine's KV memory on this rank, as pages.

    Parameters
    ----------
    kv_caches:
        Of each layer its tensor, whose first dimension is blocks (or the kernel's parts of them).
    kv_cache_config:
        How vLLM divides it.
    per_block:
        Engine blocks in one of the store's.
    """
    import torch
    from vllm.v1.kv_cache_interface import group_kernel_blocks

    group = _the_group(kv_cache_config)
    specs, blocks = _layer_specs(group), kv_cache_config.num_blocks
    layers = []
    for name in group.layer_names:
        cache = group_kernel_blocks(kv_caches[name], blocks)
        size = cache.element_size()
        view = torch.tensor([], dtype=torch.uint8, device=cache.device).set_(
            cache.untyped_storage(),
            cache.storage_offset() * size,
            (blocks, specs[name].page_size_bytes),
            (cache.stride(0) * size, 1),
        )
        layers.append(view)
    if layers[0].device.type == "cpu":
        return HostPages([layer.numpy() for layer in layers], per_block)
    return DevicePages(layers, per_block, torch.cuda.Stream())
