"""One telemetry window of what clients told, what tiers did and what meters said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from greencache.controller.assembly import ControlledEngine
from greencache.controller.modelled_energy import modelled_energy
from greencache.controller.telemetry import Window
from greencache.controller.work import attended_positions, prefill
from greencache.service.requests import Asked
from greencache.service.stores import Held

__all__ = ["Span", "prompt_s_per_token", "told_window"]


class Span(NamedTuple):
    """An interval as the tiers and meters know it.

    Attributes
    ----------
    start_s, duration_s:
        When.
    before, after:
        What tiers had done when it began and ended.
    gpu_j:
        Energy of all GPUs; None if it was not measured all the time.
    hbm_kept:
        Share of HBM that running requests kept from being a cache, as engines told.
    backlog_s:
        Work that waited at its end, in seconds of one engine.
    """

    start_s: float
    duration_s: float
    before: Held
    after: Held
    gpu_j: float | None
    hbm_kept: float = 0.0
    backlog_s: float = 0.0


def told_window(engine: ControlledEngine, asked: Asked, span: Span) -> Window:
    """Put an interval together, as far as no engine says better.

    Energy that is not measured, and the time in which engines stepped, are modelled from the
    tokens of requests. Nobody tells what prompts alone took: that is 0, by which models are not
    corrected.
    """
    duration_s, before, after = span.duration_s, span.before, span.after
    computed = float(asked.computed_tokens.sum())
    prompt = computed + float(asked.prefix_tokens.sum())
    begun = len(asked.computed_tokens)
    busy = asked.tpot.mean_s * asked.output_tokens if asked.output_tokens else 0.0
    modelled = modelled_energy(
        engine.hardware.rates,
        duration_s,
        requests=begun,
        prompt_tokens=prompt,
        computed_tokens=computed,
        output_tokens=asked.output_tokens,
        # By Little's law: answers per second times how long each takes.
        running=busy / duration_s if busy > 0 else 1.0,
        max_batched_tokens=engine.max_batched_tokens,
        replicas=engine.replicas,
    )
    return Window(
        start_s=span.start_s,
        duration_s=duration_s,
        arrivals=asked.arrivals,
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
        hit_tokens=asked.hit_tokens,
        finished=asked.finished,
        within_slo=asked.within_slo,
        ttft=asked.ttft,
        tpot=asked.tpot,
        busy_s=modelled.busy_s,
        gpu_j=modelled.gpu_j if span.gpu_j is None else span.gpu_j,
        prefill_tokens=computed,
        prefill_s=0.0,
        prefill_j=0.0,
        read_bytes=max(after.read_bytes - before.read_bytes, 0.0),
        written_bytes=max(after.written_bytes - before.written_bytes, 0.0),
        declined_bytes=max(
            after.declined_bytes
            + after.dropped_bytes
            - before.declined_bytes
            - before.dropped_bytes,
            0.0,
        ),
        held_blocks=span.hbm_kept * engine.hardware.kv_bytes / engine.hardware.layout.block_bytes,
        backlog_s=span.backlog_s,
        # The controller thinks of one engine; what the store has serves all of them.
        capacity_bytes=_of_each(after.capacity_bytes, engine.replicas),
        used_bytes=_of_each(after.used_bytes, engine.replicas),
    )


def prompt_s_per_token(engine: ControlledEngine, asked: Asked) -> float:
    """Seconds for which a prompt token that waits in any engine keeps each of them, in the mean.

    By the model of prompts, as long as the interval's; 0 if it had none.
    """
    computed, prefix = asked.computed_tokens, asked.prefix_tokens
    if len(computed) == 0:
        return 0.0
    attended = attended_positions(computed, prefix)
    work = prefill(engine.hardware.rates, computed, attended, engine.max_batched_tokens)
    return float(work.seconds.sum() / computed.sum()) / engine.replicas


def _of_each(total_bytes: Mapping[str, float], replicas: int) -> dict[str, float]:
    """Bytes of both tiers of one engine; a tier that the store does not have holds nothing."""
    return {name: total_bytes.get(name, 0.0) / replicas for name in ("dram", "ssd")}
