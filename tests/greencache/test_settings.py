"""Settings come from the environment and a file, and errors name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from greencache.errors import SettingsError
from greencache.settings import load_settings, origins


def test_defaults() -> None:
    settings = load_settings()
    assert settings.storage.ssd == 16 * 10**12
    assert settings.slo.target == 0.9
    assert {row.origin for row in origins(settings)} == {"default"}


def test_the_environment_goes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "greencache.toml"
    file.write_text('[storage]\nssd = "8TB"\ndram = "1GiB"\n[carbon.factors]\nssd_kg_per_tb = 30\n')
    monkeypatch.setenv("GREENCACHE_CONFIG", str(file))
    monkeypatch.setenv("GREENCACHE_STORAGE__SSD", "4TB")
    monkeypatch.setenv("GREENCACHE_SLO__TTFT", "1500ms")
    settings = load_settings()
    assert (settings.storage.ssd, settings.storage.dram) == (4 * 10**12, 2**30)
    assert settings.slo.ttft == 1.5
    assert settings.carbon.factors == {"ssd_kg_per_tb": 30.0}
    found = {row.variable: (row.value, row.origin) for row in origins(settings)}
    assert found["GREENCACHE_STORAGE__SSD"] == (4 * 10**12, "environment")
    assert found["GREENCACHE_STORAGE__DRAM"] == (2**30, str(file))
    assert found["GREENCACHE_CARBON__FACTORS__SSD_KG_PER_TB"] == (30.0, str(file))
    assert found["GREENCACHE_ENGINE__MODEL"][1] == "default"


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("GREENCACHE_STORAGE__SSD", "12XB", "'12XB' is not a size"),
        ("GREENCACHE_SLO__TTFT", "soon", "'soon' is not a duration"),
        ("GREENCACHE_SLO__TARGET", "2", "less than or equal to 1"),
        ("GREENCACHE_CARBON__SCOPE", "all", "'attributable' or 'provisioned'"),
        ("GREENCACHE_CARBON__FACTORS__PUE", "x", "valid number"),
        ("GREENCACHE_CARBON__FACTORS__PUE", "nan", "greater than 0|finite"),
        ("GREENCACHE_CONTROL__INTERVAL", "2d", "less than or equal to 86400"),
        ("GREENCACHE_STORAGE__SDD", "1TB", "did you mean GREENCACHE_STORAGE__SSD"),
        ("GREENCACHE_CARBON__FACTORS__SSD_KG", "1", "is not a setting"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=complaint) as fault:
        load_settings()
    assert variable in str(fault.value)


def test_settings_are_listed_with_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would be given, whatever unit they were given in."""
    monkeypatch.setenv("GREENCACHE_SERVE__SSD", "1500GB")
    monkeypatch.setenv("GREENCACHE_VLLM__DEADLINE", "0.25")
    found = {row.variable: (row.value, row.written) for row in origins(load_settings())}
    assert found["GREENCACHE_SERVE__SSD"] == (15 * 10**11, "1.5TB")
    assert found["GREENCACHE_SERVE__STAGING"] == (2**28, "256MiB")
    assert found["GREENCACHE_VLLM__DEADLINE"] == (0.25, "250ms")
    assert found["GREENCACHE_INTENSITY__STALE"] == (21_600.0, "6h")
    assert found["GREENCACHE_SERVE__SESSIONS"] == (4096, 4096)
    assert found["GREENCACHE_SLO__TARGET"] == (0.9, 0.9)


def test_a_size_is_text_with_a_unit_or_a_number_of_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "greencache.toml"
    file.write_text("[serve]\nssd = 4096\n")
    monkeypatch.setenv("GREENCACHE_CONFIG", str(file))
    assert load_settings().serve.ssd == 4096
    monkeypatch.setenv("GREENCACHE_SERVE__SSD", "0")
    assert load_settings().serve.ssd == 0
    monkeypatch.setenv("GREENCACHE_SERVE__SSD", "4096")
    with pytest.raises(SettingsError, match="GREENCACHE_SERVE__SSD: '4096' is a size without a"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[storage]\nssd = '12XB'", "GREENCACHE_STORAGE__SSD .*in .*: '12XB' is not a size"),
        ("[storage]\nsdd = 1", "GREENCACHE_STORAGE__SDD is not a setting"),
        ("storage = 3", "GREENCACHE_STORAGE is not a setting"),
        ("[", "not a TOML file"),
    ],
)
def test_a_wrong_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "greencache.toml"
    file.write_text(content)
    monkeypatch.setenv("GREENCACHE_CONFIG", str(file))
    with pytest.raises(SettingsError, match=complaint):
        load_settings()


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENCACHE_CONFIG", "/nowhere/greencache.toml")
    with pytest.raises(SettingsError, match="GREENCACHE_CONFIG: cannot read"):
        load_settings()


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GREENCACHE_INTENSITY__KEY", "top-secret")
    monkeypatch.setenv("GREENCACHE_ENERGY__KEY", "top-secret")
    settings = load_settings()
    assert settings.intensity.key is not None
    assert settings.intensity.key.get_secret_value() == "top-secret"
    assert "top-secret" not in repr(settings)
    assert "top-secret" not in str([str(row.value) for row in origins(settings)])
    monkeypatch.delenv("GREENCACHE_INTENSITY__KEY")
    file = tmp_path / "greencache.toml"
    file.write_text("[intensity]\nkey = 987654321\n")
    monkeypatch.setenv("GREENCACHE_CONFIG", str(file))
    with pytest.raises(SettingsError, match="GREENCACHE_INTENSITY__KEY") as fault:
        load_settings()
    assert "987654321" not in str(fault.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/x", "http://", "http://host:99999/", "http://[::1", " "]
)
def test_what_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GREENCACHE_ENGINE__METRICS_URL", url)
    with pytest.raises(SettingsError, match=r"GREENCACHE_ENGINE__METRICS_URL.*no URL"):
        load_settings()


def test_a_password_in_a_url_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENCACHE_ENERGY__URL", "https://me:pass-word@host/")
    with pytest.raises(SettingsError, match="GREENCACHE_ENERGY__URL") as fault:
        load_settings()
    assert "pass-word" not in str(fault.value)


def test_several_pages_of_engines_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENCACHE_ENGINE__METRICS_URL", "http://a:8000/metrics, https://b/metrics")
    urls = load_settings().engine.metrics_url
    assert urls == "http://a:8000/metrics,https://b/metrics"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("rediss://alice:s3cret@host:6379/0", "rediss://alice:***@host:6379/0"),
        ("redis://:s3cret@[::1]/2?a=b", "redis://:***@[::1]/2?a=b"),
        ("redis://alice:s3c:r@et@host", "redis://alice:***@host"),
        ("unix://:s3cret@/run/valkey.sock", "unix://:***@/run/valkey.sock"),
        ("redis://[s3cret", "***"),
        ("alice:s3cret@host", "***"),
        ("s3cret", "***"),
    ],
)
def test_a_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    monkeypatch.setenv("GREENCACHE_REDIS__URL", url)
    settings = load_settings()
    assert settings.redis.url is not None
    assert settings.redis.url.get_secret_value() == url
    (row,) = [row for row in origins(settings) if row.variable == "GREENCACHE_REDIS__URL"]
    assert (row.value, row.origin) == (shown, "environment")
    assert "s3c" not in repr(settings) + str(row) + settings.model_dump_json()
