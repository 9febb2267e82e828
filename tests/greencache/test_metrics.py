"""Names of metrics: as Prometheus' conventions have them, and as they are promised to be."""

from __future__ import annotations

import re

import pytest

from greencache.metrics import METRICS, Metric

PROMISED = {
    "greencache_hit_tokens_total": ("tier",),
    "greencache_lookup_tokens_total": (),
    "greencache_tier_capacity_bytes": ("tier",),
    "greencache_tier_used_bytes": ("tier",),
    "greencache_io_seconds": ("tier", "op"),
    "greencache_carbon_grams_total": ("kind", "component"),
    "greencache_energy_joules_total": ("component",),
    "greencache_carbon_intensity_gco2_per_kwh": ("zone",),
    "greencache_slo_attainment_ratio": ("metric",),
    "greencache_plan_solve_seconds": (),
    "greencache_ssd_written_bytes_total": (),
}
"""Dashboards and alerts of others are built on these."""

UNITS = {"", "bytes", "seconds", "ratio", "joules", "grams", "tokens", "blocks", "gco2_per_kwh"}


def test_the_promised_ones_are_there() -> None:
    labels = {metric.name: metric.labels for metric in METRICS}
    assert len(labels) == len(METRICS)
    assert {name: labels.get(name) for name in PROMISED} == PROMISED


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_kind_and_unit(metric: Metric) -> None:
    assert re.fullmatch(r"greencache(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    assert metric.unit in UNITS
    stem = metric.name.removesuffix("_total")
    assert stem.endswith(metric.unit)
    assert not re.search(r"_(count|sum|bucket|created|max|ms|milliseconds|mb|percent)$", stem)
    assert not any(stem.endswith(unit) and metric.unit != unit for unit in UNITS - {""})
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert not set(metric.labels) & {"le", "quantile", "job", "instance"}
