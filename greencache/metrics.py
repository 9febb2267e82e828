"""Every metric that GreenCache exposes: its name, its labels, and what it means.

Names follow Prometheus' conventions: base units, the unit last, ``_total`` on counters. Values come
from whoever has them when somebody asks: `greencache.service.metrics` reads them then.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from greencache.durations import Durations

__all__ = ["METRICS", "Metric", "Sample"]


class Metric(NamedTuple):
    """One metric.

    Attributes
    ----------
    name:
        As it is exposed, a counter's ``_total`` included.
    kind:
        Counters only grow while the daemon runs; an info's value is 1, its labels say it all.
    help:
        One sentence.
    labels:
        Names of its labels. Their values come from a small fixed set.
    unit:
        With which the name ends; none if it counts, or is a state.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""


class Sample(NamedTuple):
    """A value of a metric. Those of the same metric and labels are added up."""

    metric: Metric
    value: float | Durations
    labels: tuple[str, ...] = ()


HIT_TOKENS = Metric(
    "greencache_hit_tokens_total",
    "counter",
    "Prompt tokens that each tier served, as engines tell when a request ends; hbm is their own.",
    ("tier",),
    "tokens",
)
LOOKUP_TOKENS = Metric(
    "greencache_lookup_tokens_total",
    "counter",
    "Prompt tokens of requests that ended, as engines tell: hit tokens over it is the hit rate.",
    (),
    "tokens",
)
OUTPUT_TOKENS = Metric(
    "greencache_output_tokens_total",
    "counter",
    "Output tokens of requests that ended, as engines tell: what grams are related to.",
    (),
    "tokens",
)
REQUESTS = Metric("greencache_requests_total", "counter", "Requests that ended, as engines tell.")
HIT_BLOCKS = Metric(
    "greencache_hit_blocks_total",
    "counter",
    "Blocks asked for that a tier had; one that two tiers have counts in both.",
    ("tier",),
    "blocks",
)
MISSED_BLOCKS = Metric(
    "greencache_missed_blocks_total",
    "counter",
    "Blocks asked for that a tier did not have, or had behind one that it did not.",
    ("tier",),
    "blocks",
)
CAPACITY = Metric(
    "greencache_tier_capacity_bytes",
    "gauge",
    "What a tier may hold now.",
    ("tier",),
    "bytes",
)
USED = Metric(
    "greencache_tier_used_bytes",
    "gauge",
    "What a tier's blocks take; beyond its capacity only while leases last.",
    ("tier",),
    "bytes",
)
BACKED = Metric(
    "greencache_tier_backed_bytes",
    "gauge",
    "Memory or disk that a tier occupies, free slots and its own records included.",
    ("tier",),
    "bytes",
)
PINNED = Metric(
    "greencache_tier_pinned_bytes",
    "gauge",
    "Memory that clients were allowed to pin, for their devices to use.",
    ("tier",),
    "bytes",
)
UNPINNING = Metric(
    "greencache_tier_unpinning_bytes",
    "gauge",
    "Memory beyond a tier's capacity that it gives back once clients have unpinned it.",
    ("tier",),
    "bytes",
)
BLOCKS = Metric(
    "greencache_tier_blocks",
    "gauge",
    "Blocks in a tier, those being written included.",
    ("tier",),
    "blocks",
)
HBM_KEPT = Metric(
    "greencache_hbm_kept_bytes",
    "gauge",
    "What running requests keep of engines' own memory from being a cache, as engines tell.",
    (),
    "bytes",
)
WAITING_TOKENS = Metric(
    "greencache_engine_waiting_tokens",
    "gauge",
    "Prompt tokens that wait to be computed in engines, as they tell.",
    (),
    "tokens",
)
READ_BYTES = Metric(
    "greencache_tier_read_bytes_total",
    "counter",
    "Read by the daemon; clients copy from memory that they map by themselves.",
    ("tier",),
    "bytes",
)
WRITTEN_BYTES = Metric(
    "greencache_tier_written_bytes_total",
    "counter",
    "Written by the daemon; clients copy into memory that they map by themselves.",
    ("tier",),
    "bytes",
)
SSD_WRITTEN_BYTES = Metric(
    "greencache_ssd_written_bytes_total",
    "counter",
    "Written to SSD: what wears it.",
    (),
    "bytes",
)
IO = Metric(
    "greencache_io_seconds",
    "histogram",
    "How long a tier took for a batch of blocks, by op: read or write.",
    ("tier", "op"),
    "seconds",
)
EVICTED_BLOCKS = Metric(
    "greencache_tier_evicted_blocks_total",
    "counter",
    "Blocks that a tier gave up for others, or to a smaller size.",
    ("tier",),
    "blocks",
)
FAILURES = Metric(
    "greencache_tier_failures_total",
    "counter",
    "What went wrong in a tier, by cause; each was a miss or a save that did not happen.",
    ("tier", "cause"),
)
BREAKER_OPEN = Metric(
    "greencache_tier_breaker_open",
    "gauge",
    "More than 0 while a tier is not asked for an op because that failed too often.",
    ("tier", "op"),
)
DECLINED_BLOCKS = Metric(
    "greencache_ssd_declined_blocks_total",
    "counter",
    "Blocks not written to SSD because they were not worth it.",
    (),
    "blocks",
)
DROPPED_BLOCKS = Metric(
    "greencache_ssd_dropped_blocks_total",
    "counter",
    "Blocks not written to SSD because too much was waiting, or the write failed.",
    (),
    "blocks",
)
PROMOTED_BLOCKS = Metric(
    "greencache_promoted_blocks_total",
    "counter",
    "Blocks read from a lower tier into DRAM because somebody asked for them.",
    (),
    "blocks",
)
WRITE_QUEUE = Metric(
    "greencache_write_queue_bytes",
    "gauge",
    "Still to be written to SSD.",
    (),
    "bytes",
)

UNSHARED_BLOCKS = Metric(
    "greencache_unshared_blocks_total",
    "counter",
    "Blocks not written to the shared tier, as too much was waiting or it did not take them.",
    (),
    "blocks",
)
SHARE_QUEUE = Metric(
    "greencache_share_queue_bytes",
    "gauge",
    "Still to be written to the shared tier.",
    (),
    "bytes",
)
POOLS = Metric("greencache_pools", "gauge", "Sizes of blocks, each with tiers of its own.")
CONNECTIONS = Metric("greencache_connections", "gauge", "Clients that are connected.")
SESSIONS = Metric(
    "greencache_sessions",
    "gauge",
    "Clients of which something may be in use, connected or not.",
)
REFUSED_CLIENTS = Metric(
    "greencache_refused_clients_total",
    "counter",
    "Clients that were refused, or cut_off because they broke the protocol or its limits.",
    ("cause",),
)
QUESTIONS = Metric(
    "greencache_questions_total", "counter", "What clients asked, by kind of message.", ("kind",)
)
LEASES = Metric("greencache_leases", "gauge", "Leases that clients hold.")
OLDEST_LEASE = Metric(
    "greencache_oldest_lease_age_seconds",
    "gauge",
    "How long the oldest lease has been held, 0 without one: what it has can make no room.",
    (),
    "seconds",
)
RESERVATIONS = Metric(
    "greencache_reservations", "gauge", "Reservations that clients are writing to."
)
OLDEST_RESERVATION = Metric(
    "greencache_oldest_reservation_age_seconds",
    "gauge",
    "How long the oldest reservation has waited to be committed or aborted, 0 without one.",
    (),
    "seconds",
)
SLO_ATTAINMENT = Metric(
    "greencache_slo_attainment_ratio",
    "gauge",
    "Share of requests within the SLO in the last interval, by metric: ttft, tpot or both.",
    ("metric",),
    "ratio",
)
CARBON = Metric(
    "greencache_carbon_grams_total",
    "counter",
    "CO2e, by kind (operational or embodied) and component.",
    ("kind", "component"),
    "grams",
)
ENERGY = Metric(
    "greencache_energy_joules_total",
    "counter",
    "Energy used, by component.",
    ("component",),
    "joules",
)
INTENSITY = Metric(
    "greencache_carbon_intensity_gco2_per_kwh",
    "gauge",
    "Carbon intensity of the grid that is reckoned with now.",
    ("zone",),
    "gco2_per_kwh",
)
INTENSITY_AGE = Metric(
    "greencache_carbon_intensity_age_seconds",
    "gauge",
    "Since the end of the newest hour that the source knows; beyond the limit, fallbacks stand in.",
    ("zone",),
    "seconds",
)
INTENSITY_FALLBACKS = Metric(
    "greencache_carbon_intensity_fallbacks_total",
    "counter",
    "Intervals and forecasts that rested on something else than the source's newest, by kind.",
    ("kind",),
)
SOURCE_FAILURES = Metric(
    "greencache_source_failures_total",
    "counter",
    "Times that a source outside gave nothing of use: intensity, energy or engine; by cause.",
    ("source", "cause"),
)
ENERGY_SOURCE = Metric(
    "greencache_energy_source_info",
    "info",
    "What each component's energy is from: a meter's name, or model for the power model.",
    ("component", "source"),
)
CONTROL_FAILURES = Metric(
    "greencache_control_failures_total",
    "counter",
    "Times that something of the controller failed and the tiers stayed as they were, by part.",
    ("part",),
)
DECISIONS = Metric(
    "greencache_decisions_total", "counter", "Times that the controller chose the tiers' sizes."
)
GROWTHS = Metric(
    "greencache_control_growths_total",
    "counter",
    "Decisions made within an interval, to grow tiers because work waits.",
)
FALLBACKS = Metric(
    "greencache_control_fallbacks_total",
    "counter",
    "Decisions made otherwise than planned, and notices given, by kind.",
    ("kind",),
)
PLAN_SOLVE = Metric(
    "greencache_plan_solve_seconds",
    "histogram",
    "How long the controller took for a decision.",
    (),
    "seconds",
)
METRICS_FAILURES = Metric(
    "greencache_metrics_failures_total",
    "counter",
    "Times that a part of these metrics could not be read and was left out.",
    ("part",),
)
BUILD = Metric("greencache_build_info", "info", "The version that runs.", ("version",))

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of them, in the order in which they are exposed."""
