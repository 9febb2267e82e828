"""Settings of the daemon and of what it is told from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from greencache.setting_types import Bytes, Part, Seconds, Url

__all__ = [
    "EnergySettings",
    "IntensitySettings",
    "RedisSettings",
    "ServeSettings",
    "VllmSettings",
]


class RedisSettings(Part):
    """The tier that hosts share: Redis or Valkey."""

    url: SecretStr | None = Field(
        None, description="server: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS; none"
    )
    cluster: bool = Field(False, description="whether the server is a node of a cluster")
    ca_file: Path | None = Field(None, description="certificates by which TLS is checked")
    capacity: Bytes = Field(64 * 2**30, description="most that this host keeps there")
    ttl: Seconds = Field(
        24 * 3600.0, ge=1, description="how long a block stays that nobody asks for"
    )
    prefix: str = Field("greencache", description="what all names on the server begin with")
    connections: int = Field(
        4, ge=1, le=64, description="connections to a node for reads, and as many for writes"
    )
    connect_deadline: Seconds = Field(1.0, gt=0, description="most time to connect")
    lookup_deadline: Seconds = Field(0.25, gt=0, description="most time to find blocks")
    read_deadline: Seconds = Field(5.0, gt=0, description="most time to read blocks")
    write_deadline: Seconds = Field(10.0, gt=0, description="most time to write blocks")


class IntensitySettings(Part):
    """Where the daemon knows the grid's carbon intensity from."""

    provider: Literal["file", "electricitymaps", "watttime", "gb"] = Field(
        "file", description="source: file, electricitymaps, watttime, or gb"
    )
    zone: str | None = Field(
        None, description="zone as the source calls it; grid.zone for a file, GB for gb"
    )
    url: Url | None = Field(None, description="where the source's API is, if not at its own place")
    username: str | None = Field(None, description="user name, for watttime")
    key: SecretStr | None = Field(
        None, description="API key of electricitymaps, password of watttime; never printed"
    )
    signal: Literal["co2_moer", "co2_aoer"] = Field(
        "co2_moer", description="of watttime: marginal (co2_moer) or average (co2_aoer)"
    )
    factors: Literal["lifecycle", "direct"] = Field(
        "lifecycle", description="of electricitymaps: plants included, or burning only"
    )
    refresh: Seconds = Field(900.0, ge=60, description="time between two questions to the source")
    timeout: Seconds = Field(10.0, gt=0, le=120, description="time that an answer may take")
    stale: Seconds = Field(
        6 * 3600.0, ge=3600, description="age of the newest value from which fallbacks are taken"
    )
    forecast: Literal["own", "provider"] = Field(
        "own", description="whose forecast goes first, where the source has one"
    )
    fallback: str | None = Field(
        None, description="recorded series to fall back on: shipped zone, or FILE[:ZONE]"
    )
    fallback_gco2_per_kwh: float = Field(
        480.0, ge=0, le=5000, description="intensity to fall back on where nothing is known"
    )
    cache: Path | None = Field(
        None, description="file that keeps what is known; in the daemon's directory if not set"
    )


class EnergySettings(Part):
    """Where the daemon knows energy from."""

    source: Literal["auto", "nvml", "rapl", "prometheus", "model"] = Field(
        "auto", description="meter: auto (what works), nvml, rapl, prometheus, or the power model"
    )
    sample: Seconds = Field(10.0, ge=1, le=300, description="time between two readings of meters")
    gpus: str | None = Field(None, description="GPUs by number, as 0,1; all if not set")
    rapl: Path = Field(Path("/sys/class/powercap"), description="where Linux shows RAPL's counters")
    url: Url | None = Field(
        None, description="Prometheus server (with a query), or a page with a counter in joules"
    )
    query: str | None = Field(None, description="PromQL that gives a counter in joules")
    metric: str | None = Field(
        None, description="counter on the page; not needed if it has one ..._joules_total"
    )
    component: Literal["gpu", "cpu", "dram", "host"] = Field(
        "gpu", description="whose energy that counter is"
    )
    key: SecretStr | None = Field(
        None, description="bearer token for the page or server; never printed"
    )


class ServeSettings(Part):
    """The daemon."""

    socket: Path | None = Field(
        None, description="where it listens; default daemon.sock in the user's run-time folder"
    )
    dram: Bytes | None = Field(
        None, description="host DRAM for KV, all models together; default a quarter of the memory"
    )
    ssd_dir: Path | None = Field(None, description="folder on an SSD for KV; no SSD if not set")
    ssd: Bytes | None = Field(
        None, description="disk space there; default a quarter of its filesystem"
    )
    staging: Bytes = Field(
        256 * 2**20, ge=2**20, description="least DRAM, which blocks on SSD are read through"
    )
    control: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether tiers are sized: on, off, auto (if engine.model and hardware are set)",
    )
    sessions: int = Field(4096, ge=1, le=65536, description="most clients at a time")
    metrics: bool = Field(True, description="whether metrics are served to Prometheus")
    metrics_address: str = Field(
        "127.0.0.1", description="address for them; beyond loopback with a token only"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port for them, 0 for any; 19600 if not set and free"
    )
    metrics_token: SecretStr | None = Field(
        None, description="what who asks has to know, needed beyond loopback; never printed"
    )
    log: Literal["text", "json"] = Field("text", description="form of the log's lines")


class VllmSettings(Part):
    """The connector inside vLLM."""

    block_tokens: int = Field(
        256, ge=1, description="tokens of a stored block: a multiple of the engine's own"
    )
    load: Literal["async", "sync"] = Field(
        "async", description="whether loads run beside the engine's steps, or steps wait for them"
    )
    deadline: Seconds = Field(
        0.1, gt=0, description="most time that the engine's scheduler waits for an answer"
    )
    load_deadline: Seconds = Field(
        5.0, gt=0, description="most time that a load waits for the store; then it is computed"
    )
    autostart: bool = Field(
        True, description="start a daemon for this engine alone where none runs"
    )
    pin: bool = Field(
        True, description="pin the daemon's memory, so that GPUs copy from and to it by themselves"
    )
    any_version: bool = Field(
        False, description="try versions of vLLM that the connector was never run with"
    )
