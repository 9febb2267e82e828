"""The causes that are exported at 0 from the start are those that the code counts by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from greencache.service import causes
from tests.test_layering import ROOT


def found(pattern: str, *files: str) -> set[str]:
    """What a pattern finds in sources, of the repository's folders."""
    paths: Iterable[Path] = (path for name in files for path in ROOT.glob(name))
    texts = [path.read_text() for path in paths]
    assert texts, files
    return {each for text in texts for each in re.findall(pattern, text)}


FAILED = r'_(?:guarded|failed)\(\s*"([^"]+)"'
KIND = r'SourceError\(\s*"([^"]+)"'


def test_those_of_tiers() -> None:
    for name in ("dram", "ssd"):
        counted = found(FAILED, "tiers/slots.py", f"tiers/{name}.py")
        assert set(causes.TIER_CAUSES[name]) == counted
    asked = found(r'_(?:ask|note)\("(\w+)"', "tiers/remote.py")
    others = found(r'_remote\.count\("([^"]+)"', "tiers/redis.py")
    redis = set(causes.TIER_CAUSES["redis"])
    assert redis - others == {f"{what}: {lost}" for what in asked for lost in causes._LOST}
    assert others <= redis
    told = found(r'(?:return|else) "(\w+)"', "tiers/record_transfers.py")
    assert told - {"evicted", "refused"} == {*causes._LOST}, "these two are a server's answers"


def test_those_of_the_controller() -> None:
    assert set(causes.PARTS) == found(FAILED, "greencache/service/control.py")
    notices = found(r'notices\.append\("(\w+):', "controller/lookout.py")
    planned = found(r'gap=_GAP\), "(\w+)"', "controller/loop.py")
    unplanned = found(r'fault}", "([^"]+)", notices', "controller/loop.py")
    assert notices
    assert planned
    assert unplanned
    assert set(causes.FALLBACK_KINDS) == notices | planned | unplanned
    stood_in = found(r', "([a-z ]+)"\)?\n', "controller/intensity.py")
    assert set(causes.INTENSITY_FALLBACK_KINDS) == stood_in


def test_those_of_sources() -> None:
    web = found(KIND, "adapters/web.py", "adapters/exposition.py") | {"refused"}
    assert set(causes.SOURCE_CAUSES["engine"]) == web
    own = found(KIND, "adapters/intensity/*.py")
    ahead = {f"forecast {kind}" for kind in web | {"zone"}}
    assert set(causes.SOURCE_CAUSES["intensity"]) == web | own | ahead
    for name, known in causes.METER_CAUSES.items():
        of_meter = found(KIND, f"adapters/energy/{name}.py", "adapters/energy/monitor.py")
        over_web = web if name == "prometheus" else set()
        at_opening = {"absent"} if name != "prometheus" else set()
        assert set(known) == (of_meter | over_web | {"absurd"}) - at_opening
