"""Every setting, from the environment (``GREENCACHE_*``) or a TOML file.

Nested settings are joined by two underscores: ``GREENCACHE_STORAGE__SSD=8TB``. A TOML file, named
by ``GREENCACHE_CONFIG``, holds the same tree; the environment goes before the file, and options of
the command line before both. An unknown or malformed setting is an error that names its variable.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from greencache.carbon import Scope
from greencache.errors import SettingsError
from greencache.factors import FACTOR_NAMES
from greencache.setting_types import Bytes, Seconds, Url, Urls

__all__ = [
    "CONFIG_VARIABLE",
    "ControlSettings",
    "EnergySettings",
    "IntensitySettings",
    "Origin",
    "ServeSettings",
    "Settings",
    "load_settings",
    "origins",
]

PREFIX = "GREENCACHE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the TOML file; the one variable that is not part of the tree."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class EngineSettings(_Part):
    """The inference engine."""

    model: str = Field("llama-3.1-8b", description="model served")
    hardware: str = Field("4xH100", description="GPUs of one host, as COUNTxGPU")
    weight_dtype: str = Field("fp8", description="type of the weights")
    kv_dtype: str = Field("bf16", description="type of the KV cache")
    max_batched_tokens: int = Field(2048, ge=1, description="most tokens in a step of the engine")
    max_running: int = Field(256, ge=1, le=65536, description="most requests in a step")
    metrics_url: Urls | None = Field(
        None, description="Prometheus page of the engine; several, separated by commas"
    )
    metrics_every: Seconds = Field(15.0, ge=1, le=600, description="time between two looks at it")


class StorageSettings(_Part):
    """The tiers below HBM."""

    dram: Bytes = Field(512 * 2**30, description="host DRAM installed for KV")
    ssd: Bytes = Field(16 * 10**12, description="SSD installed for KV")
    policy: str = Field("lru", description="eviction policy: lru, lfu, gdsf, sieve, lcs, carbon")
    admission: str = Field("value", description="what is stored on SSD: value (worth it), or all")


class SloSettings(_Part):
    """What users were promised."""

    ttft: Seconds = Field(2.0, gt=0, description="time to first token")
    tpot: Seconds = Field(0.2, gt=0, description="time per output token after the first")
    target: float = Field(0.9, gt=0, le=1, description="share of requests that must meet both")


class GridSettings(_Part):
    """The electricity."""

    zone: str = Field("CISO", description="zone that ships with GreenCache, or FILE[:ZONE]")
    start: str | None = Field(None, description="hour of the series at which a trace begins, UTC")


class IntensitySettings(_Part):
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


class EnergySettings(_Part):
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


class CarbonSettings(_Part):
    """The carbon model."""

    scope: Scope = Field(Scope.ATTRIBUTABLE, description="what embodied carbon is charged for")
    factors: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="figures that replace the catalog's"
    )


class ControlSettings(_Part):
    """The controller that sizes the tiers."""

    interval: Seconds = Field(3600.0, ge=60, description="time between two decisions")
    horizon: int = Field(24, ge=1, le=168, description="intervals that are planned ahead")
    learn: Seconds = Field(
        6 * 3600.0, ge=0, description="time at the largest size before the first decision"
    )
    hysteresis: float = Field(
        0.001, ge=0, le=1, description="share of the horizon's grams that a change must save"
    )
    floor: float = Field(
        0.8, ge=0, le=1, description="share of an interval's requests to be within the SLO"
    )
    load_quantile: float = Field(
        0.9, gt=0, lt=1, description="quantile of the load's forecast at which the floor is kept"
    )
    certainty: float = Field(
        0.95, gt=0, lt=1, description="probability with which a day is planned to keep the SLO"
    )
    forecast: Literal["model", "naive", "perfect"] = Field(
        "model", description="what the controller expects: model, naive or (in a replay) perfect"
    )
    forecast_bias: float = Field(
        0.0, gt=-1, le=10, description="error put into forecasts on purpose: relative bias"
    )
    forecast_noise: float = Field(
        0.0, ge=0, le=10, description="the same: relative standard deviation"
    )
    solver: Literal["decomposition", "ilp"] = Field(
        "decomposition",
        description="what solves the plan: its own decomposition, or PuLP and HiGHS",
    )
    solver_time: Seconds = Field(10.0, gt=0, description="most time for HiGHS")
    fill: bool = Field(True, description="whether plans know that a grown tier is empty at first")
    dram: Bytes | None = Field(None, description="a fixed size of DRAM; chosen if not set")
    ssd: Bytes | None = Field(None, description="a fixed size of SSD; chosen if not set")
    dry_run: bool = Field(False, description="advise only: keep the largest sizes")


class VllmSettings(_Part):
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
    any_version: bool = Field(
        False, description="try versions of vLLM that the connector was never run with"
    )


class ServeSettings(_Part):
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


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    engine: EngineSettings = EngineSettings()
    storage: StorageSettings = StorageSettings()
    slo: SloSettings = SloSettings()
    grid: GridSettings = GridSettings()
    intensity: IntensitySettings = IntensitySettings()
    energy: EnergySettings = EnergySettings()
    carbon: CarbonSettings = CarbonSettings()
    control: ControlSettings = ControlSettings()
    vllm: VllmSettings = VllmSettings()
    serve: ServeSettings = ServeSettings()
    catalog: Path | None = Field(None, description="TOML file laid over the catalog of parts")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before what `load_settings` read from the file; no other source."""
        return env_settings, init_settings


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting: its variable, its value now, where that is from, and what it means."""

    variable: str
    value: object
    origin: str
    description: str


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, (*path, name))
        elif (*path, name) == ("carbon", "factors"):
            yield from ((*path, name, factor) for factor in FACTOR_NAMES)
        else:
            yield (*path, name)


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


def _read_file() -> tuple[dict[str, Any], str]:
    name = os.environ.get(CONFIG_VARIABLE, "")
    if not name:
        return {}, ""
    try:
        return tomllib.loads(Path(name).read_text("utf-8")), name
    except OSError as fault:
        raise SettingsError(f"{CONFIG_VARIABLE}: cannot read {name} ({fault.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SettingsError(f"{CONFIG_VARIABLE}: {name} is not a TOML file ({fault})") from None


def _paths(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, (*path, key))
        else:
            yield (*path, key)


def load_settings() -> Settings:
    """Read all settings from the process's environment and the file that it names.

    Raises
    ------
    SettingsError
        If a setting is unknown or malformed; its text names the variable.
    """
    tree, file = _read_file()
    known = {_variable(path) for path in _leaves(Settings)}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known | {CONFIG_VARIABLE}:
            raise SettingsError(_unknown(name, known))
    for path in _paths(tree):
        if _variable(path) not in known:
            raise SettingsError(f"{file}: {_unknown(_variable(path), known)}")
    try:
        return Settings(**tree)
    except ValidationError as fault:
        problem = fault.errors()[0]
        variable = _variable(tuple(str(part) for part in problem["loc"]))
        reason = f"{problem['msg']}, not {problem['input']!r}"
        if _is_secret(problem["loc"]):
            reason = problem["msg"]
        if problem["type"] == "value_error":  # our own, which quote the input themselves
            reason = problem["msg"].removeprefix("Value error, ")
        where = f" (in {file})" if variable not in os.environ and file else ""
        raise SettingsError(f"{variable}{where}: {reason}") from None


def _is_secret(path: tuple[str | int, ...]) -> bool:
    """Whether a setting's value may not be shown."""
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return False
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return SecretStr in (kind, *get_args(kind))
        model = kind
    return False


def _unknown(variable: str, known: set[str]) -> str:
    close = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{variable} is not a setting{hint} All are listed by: greencache settings"


def origins(settings: Settings) -> list[Origin]:
    """Every setting with its variable, its value and where that is from."""
    tree, file = _read_file()
    in_file = {_variable(path) for path in _paths(tree)}
    in_environment = {name.upper() for name in os.environ}
    rows: list[Origin] = []
    for path in _leaves(Settings):
        variable = _variable(path)
        value: object = settings
        description = ""
        for part in path:
            if isinstance(value, BaseModel):
                description = type(value).model_fields[part].description or ""
                value = getattr(value, part)
            elif isinstance(value, Mapping):
                value = value.get(part)
        origin = file if variable in in_file else "default"
        rows.append(
            Origin(
                variable,
                value,
                "environment" if variable in in_environment else origin,
                description,
            )
        )
    return rows
