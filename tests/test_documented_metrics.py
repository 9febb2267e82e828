"""docs/metrics.md and the dashboard name the metrics that there are, as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greencache.metrics import METRICS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "metrics.md").read_text()

ROW = re.compile(
    r"^\| `(greencache_\w+)` \| (\w+) \|\s*([\w, ]*?)\s*\|\s*(\w*)\s*\| (.+) \|$", re.M
)
NAME = re.compile(r"\bgreencache_\w+")


def exposed_names() -> set[str]:
    """Every name that a query can use."""
    names = {metric.name for metric in METRICS}
    for metric in METRICS:
        if metric.kind == "histogram":
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def test_the_page_has_every_metric_with_its_type_labels_and_unit() -> None:
    rows = [
        (name, kind, tuple(label.strip() for label in labels.split(",") if label.strip()), unit)
        for name, kind, labels, unit, _ in ROW.findall(PAGE)
    ]
    assert len(rows) == len({row[0] for row in rows}), "each once"
    assert sorted(rows) == sorted((m.name, m.kind, m.labels, m.unit) for m in METRICS)


def test_its_queries_ask_for_what_there_is() -> None:
    assert set(NAME.findall(PAGE)) <= exposed_names()


def joins_unlike_labels(expression: str) -> bool:
    """Whether it divides by what keeps the labels of who was asked, instance and job."""
    return " / " in expression and bool(re.search(r"(?<!\()\b(rate|increase)\(", expression))


def test_its_ratios_are_of_sums() -> None:
    queries = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAGE, re.M)
    assert len(queries) >= 12
    assert not [query for query in queries if joins_unlike_labels(query)]


def expressions(panels: Any) -> Iterator[str]:
    if isinstance(panels, dict):
        if isinstance(panels.get("expr"), str):
            yield panels["expr"]
        panels = list(panels.values())
    if isinstance(panels, list):
        for each in panels:
            yield from expressions(each)


def test_the_dashboard_asks_for_what_there_is_by_the_labels_that_it_has() -> None:
    labels = {metric.name: set(metric.labels) for metric in METRICS}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    found = list(expressions(dashboard["panels"]))
    assert len(found) >= 15
    for expression in found:
        assert not joins_unlike_labels(expression), expression
        names = set(NAME.findall(expression))
        assert names, expression
        assert names <= exposed_names(), expression
        for name, selected in re.findall(r"(greencache_\w+)\{([^}]*)\}", expression):
            known = labels[re.sub(r"_(bucket|sum|count)$", "", name)] | {"le", "instance", "job"}
            assert set(re.findall(r"(\w+)\s*[!=]", selected)) <= known, expression
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
