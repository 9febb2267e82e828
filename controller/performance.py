"""Time and power of an inference engine's step, by roofline.

A step computes some new tokens against the context of their requests. Its linear layers and its
attention are each bound by arithmetic or by memory traffic, whichever takes longer; in every layer
one waits for the other, so their times add up. Communication between GPUs and a fixed overhead
come on top::

    linear    = max((2 * layer_parameters * tokens + 2 * head_parameters * samples) / flop rate,
                    weights / memory rate)
    attention = max(4 * attention_width * sum of context over tokens / flop rate,
                    KV per token * sum of context over requests / memory rate)
    time      = linear + attention + communication * tokens + overhead

Both rates are those of all GPUs, times their efficiency.

Two operations a parameter and token, and four an attended position and query element (scores, then
the weighted sum), are the usual count (Kaplan et al., arXiv 2001.08361, section 2.1). Tensor
parallelism reduces the hidden state over all GPUs twice a layer (Shoeybi et al., arXiv 1909.08053),
each by a ring that moves ``2 * (gpus - 1) / gpus`` of it over every link.

A GPU's power lies between idle and its design power, by how much of the step its arithmetic and
its memory are busy. Efficiencies and power shares are in the catalog, with their sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from greencache.blocks import DTYPE_BYTES, KVLayout
from greencache.catalog import Catalog, Part
from greencache.compiled import kernel
from greencache.controller.models import DenseModel
from greencache.errors import InputError, UnknownNameError
from greencache.factors import Factors

__all__ = ["Rates", "ServingHardware", "Step", "parse_hardware", "serving_hardware", "step_cost"]

_ACTIVATION_BYTES = 2
"""Activations move between GPUs in 16 bits, whatever the type of the weights."""

_COMPUTED_IN = {"fp8": "dense_fp8_flops"}
"""Weight types that are multiplied in their own type where the GPU can; the others are widened to
16 bits (as w8a16 and w4a16 kernels do) and only save memory traffic."""


class Rates(NamedTuple):
    """What `step_cost` needs, for the whole engine unless said otherwise."""

    flops_per_token: float
    flops_per_sample: float
    flops_per_attended: float
    """Per new token and position of its context."""
    weight_bytes: float
    kv_bytes_per_token: float
    flops_per_s: float
    bytes_per_s: float
    link_s_per_token: float
    overhead_s: float
    idle_w: float
    """Of all GPUs."""
    compute_w: float
    """What all GPUs draw above idle while bound by arithmetic."""
    memory_w: float
    """The same while bound by memory traffic."""
    limit_w: float
    """Design power of all GPUs."""


class Step(NamedTuple):
    """What one step costs."""

    duration_s: float
    power_w: float


@kernel
def step_cost(
    rates: Rates, tokens: float, samples: float, attended: float, resident: float
) -> Step:
    """Time and power of a step.

    Parameters
    ----------
    rates:
        The engine.
    tokens:
        New tokens computed.
    samples:
        How many of them are sampled from.
    attended:
        Sum over the new tokens of the positions that each attends to.
    resident:
        Sum over the requests in the step of the context that is read from memory.
    """
    linear_s = (
        rates.flops_per_token * tokens + rates.flops_per_sample * samples
    ) / rates.flops_per_s
    weights_s = rates.weight_bytes / rates.bytes_per_s
    attention_s = rates.flops_per_attended * attended / rates.flops_per_s
    kv_s = rates.kv_bytes_per_token * resident / rates.bytes_per_s
    duration_s = (
        max(linear_s, weights_s)
        + max(attention_s, kv_s)
        + rates.link_s_per_token * tokens
        + rates.overhead_s
    )
    compute_s, memory_s = linear_s + attention_s, weights_s + kv_s
    busy_w = (compute_s * rates.compute_w + memory_s * rates.memory_w) / duration_s
    return Step(duration_s, min(rates.idle_w + busy_w, rates.limit_w))


@dataclass(frozen=True)
class ServingHardware:
    """A model on a number of equal GPUs of one host, with tensor parallelism over all of them.

    Attributes
    ----------
    name:
        As users write it: ``4xH100``.
    model, gpu, gpus:
        What runs on what.
    weight_dtype:
        Type of the weights, a key of `greencache.blocks.DTYPE_BYTES`.
    layout:
        Layout of the KV blocks.
    rates:
        For `step_cost`.
    kv_bytes:
        HBM left for KV, over all GPUs.
    host_link_bytes_per_s:
        Between host DRAM and HBM, one direction, over all GPUs, achieved: what the links carry,
        or the DRAM if that is less.
    """

    name: str
    model: DenseModel
    gpu: Part
    gpus: int
    weight_dtype: str
    layout: KVLayout
    rates: Rates
    kv_bytes: float
    host_link_bytes_per_s: float

    def powered_by(self, factors: Factors) -> ServingHardware:
        """The same hardware with the power that ``factors`` say.

        Raises
        ------
        InputError
            If idle power is not below design power.
        """
        rates = self.rates._replace(**_power(factors, self.gpus))
        return replace(self, rates=rates)


def parse_hardware(text: str) -> tuple[int, str]:
    """Split ``4xH100`` into a count and a GPU's name; without a count it is one.

    Raises
    ------
    InputError
        If it is not of that form, or the count is not 1, 2, 4 or 8.
    """
    match = re.fullmatch(r"(?:(\d+)\s*[xX*]\s*)?([A-Za-z][\w-]*)", text.strip())
    if match is None:
        raise InputError(f"{text!r} is not hardware; write it like 4xH100")
    gpus = int(match[1] or 1)
    if gpus not in (1, 2, 4, 8):
        raise InputError(f"{text!r}: an engine runs on 1, 2, 4 or 8 GPUs of a host, not {gpus}")
    return gpus, match[2]


def _power(factors: Factors, gpus: int) -> dict[str, float]:
    """The fields of `Rates` that say what all GPUs draw."""
    above_idle_w = gpus * (factors.gpu_tdp_w.value - factors.gpu_idle_w.value)
    if above_idle_w <= 0:
        raise InputError("a GPU's design power (gpu_tdp_w) must exceed its idle power (gpu_idle_w)")
    return {
        "idle_w": gpus * factors.gpu_idle_w.value,
        "compute_w": above_idle_w * factors.gpu_prefill_power.value,
        "memory_w": above_idle_w * factors.gpu_decode_power.value,
        "limit_w": gpus * factors.gpu_tdp_w.value,
    }


def serving_hardware(
    catalog: Catalog,
    model: DenseModel,
    hardware: str,
    *,
    weight_dtype: str = "bf16",
    kv_dtype: str = "bf16",
    block_tokens: int = 256,
    factors: Factors | None = None,
) -> ServingHardware:
    """Put a model on catalog GPUs; their power is as ``factors`` say, or else as the catalog does.

    Raises
    ------
    UnknownNameError
        If the GPU or a type is not known.
    InputError
        If the hardware does not parse, or the model does not fit.
    """
    gpus, gpu_name = parse_hardware(hardware)
    gpu = catalog.part("gpu", gpu_name)
    efficiency = catalog.table("efficiency")
    if weight_dtype not in DTYPE_BYTES:
        raise UnknownNameError("weight dtype", weight_dtype, DTYPE_BYTES)
    layout = model.kv_layout(kv_dtype, block_tokens=block_tokens, ranks=gpus)
    weight_bytes = model.parameters * DTYPE_BYTES[weight_dtype]
    memory_bytes = gpus * gpu["memory_bytes"].value * efficiency["memory_utilization"].value
    if weight_bytes >= memory_bytes:
        raise InputError(
            f"{model.name} in {weight_dtype} takes {weight_bytes / 1e9:.0f} GB; {gpus}x{gpu.name} "
            f"has {memory_bytes / 1e9:.0f} GB for it: use more GPUs or a smaller weight dtype"
        )
    peak = gpu.get(_COMPUTED_IN.get(weight_dtype, "")) or gpu["dense_fp16_flops"]
    prefill = gpu.get("prefill_flops") or efficiency["prefill_flops"]
    link = efficiency["link"].value
    link_s_per_token = 0.0
    if gpus > 1:
        moved = model.layers * 2 * (2 * (gpus - 1) / gpus) * model.hidden * _ACTIVATION_BYTES
        link_s_per_token = moved / (gpu["peer_bytes_per_s"].value * link)
    rates = Rates(
        flops_per_token=2.0 * model.layer_parameters,
        flops_per_sample=2.0 * model.head_parameters,
        flops_per_attended=4.0 * model.attention_width,
        weight_bytes=(model.layer_parameters + model.head_parameters) * DTYPE_BYTES[weight_dtype],
        kv_bytes_per_token=layout.bytes_per_token,
        flops_per_s=gpus * peak.value * prefill.value,
        bytes_per_s=gpus * gpu["memory_bytes_per_s"].value * efficiency["decode_memory"].value,
        link_s_per_token=link_s_per_token,
        overhead_s=efficiency["step_overhead_s"].value,
        **_power(factors or Factors.of(catalog, gpu), gpus),
    )
    return ServingHardware(
        name=f"{gpus}x{gpu.name}",
        model=model,
        gpu=gpu,
        gpus=gpus,
        weight_dtype=weight_dtype,
        layout=layout,
        rates=rates,
        kv_bytes=memory_bytes - weight_bytes,
        host_link_bytes_per_s=min(
            gpus * gpu["host_link_bytes_per_s"].value * link,
            catalog.part("dram", "DDR5")["bytes_per_s"].value,
        ),
    )
