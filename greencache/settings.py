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
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from greencache.carbon import Scope
from greencache.daemon_settings import (
    EnergySettings,
    IntensitySettings,
    RedisSettings,
    ServeSettings,
    VllmSettings,
)
from greencache.errors import SettingsError
from greencache.factors import FACTOR_NAMES
from greencache.quantities import DAY_S
from greencache.setting_types import Bytes, Part, Seconds, Urls, written

__all__ = [
    "CONFIG_VARIABLE",
    "ControlSettings",
    "EnergySettings",
    "IntensitySettings",
    "Origin",
    "RedisSettings",
    "ServeSettings",
    "Settings",
    "VllmSettings",
    "load_settings",
    "origins",
]

PREFIX = "GREENCACHE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the TOML file; the one variable that is not part of the tree."""


class EngineSettings(Part):
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


class StorageSettings(Part):
    """The tiers below HBM."""

    dram: Bytes = Field(512 * 2**30, description="host DRAM installed for KV")
    ssd: Bytes = Field(16 * 10**12, description="SSD installed for KV")
    policy: str = Field("lru", description="eviction policy: lru, lfu, gdsf, sieve, lcs, carbon")
    admission: str = Field("value", description="what is stored on SSD: value (worth it), or all")


class SloSettings(Part):
    """What users were promised."""

    ttft: Seconds = Field(2.0, gt=0, description="time to first token")
    tpot: Seconds = Field(0.2, gt=0, description="time per output token after the first")
    target: float = Field(0.9, gt=0, le=1, description="share of requests that must meet both")


class GridSettings(Part):
    """The electricity."""

    zone: str = Field("CISO", description="zone that ships with GreenCache, or FILE[:ZONE]")
    start: str | None = Field(None, description="hour of the series at which a trace begins, UTC")


class CarbonSettings(Part):
    """The carbon model."""

    scope: Scope = Field(Scope.ATTRIBUTABLE, description="what embodied carbon is charged for")
    factors: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="figures that replace the catalog's"
    )


class ControlSettings(Part):
    """The controller that sizes the tiers."""

    interval: Seconds = Field(3600.0, ge=60, le=DAY_S, description="time between two decisions")
    looks: int = Field(
        6,
        ge=1,
        le=60,
        description="looks in an interval at what work waits, to grow tiers; 1 is at its end only",
    )
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
        0.99, gt=0, lt=1, description="probability with which a day is planned to keep the SLO"
    )
    spare_price: float = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="carbon that one request less late is worth where the SLO is kept anyway, "
        "over what a request costs",
    )
    late_price: float = Field(
        5.0,
        ge=0,
        allow_inf_nan=False,
        description="most carbon for one request less late where the SLO cannot be kept, "
        "over what a request costs",
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


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    engine: EngineSettings = EngineSettings()
    storage: StorageSettings = StorageSettings()
    redis: RedisSettings = RedisSettings()
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
    """One setting: its variable, its value now, where that is from, and what it means.

    ``written`` is the value as it is given, with its unit. A password in a URL is not shown.
    """

    variable: str
    value: object
    written: object
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


def _without_password(url: str) -> str:
    """The URL with asterisks for its password; for all of it if it is not one."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return "***"
    if password is None:
        return url if parts.scheme and "@" not in url else "***"
    at = parts.netloc.rindex("@")
    user = parts.netloc[:at].partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***{parts.netloc[at:]}"))


def origins(settings: Settings) -> list[Origin]:
    """Every setting with its variable, its value and where that is from."""
    tree, file = _read_file()
    in_file = {_variable(path) for path in _paths(tree)}
    in_environment = {name.upper() for name in os.environ}
    rows: list[Origin] = []
    for path in _leaves(Settings):
        variable = _variable(path)
        value: object = settings
        field = FieldInfo()
        for part in path:
            if isinstance(value, BaseModel):
                field = type(value).model_fields[part]
                value = getattr(value, part)
            elif isinstance(value, Mapping):
                value = value.get(part)
        if isinstance(value, SecretStr):
            value = _without_password(value.get_secret_value())
        origin = file if variable in in_file else "default"
        rows.append(
            Origin(
                variable,
                value,
                written(field, value),
                "environment" if variable in in_environment else origin,
                field.description or "",
            )
        )
    return rows
