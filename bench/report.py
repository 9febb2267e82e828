"""A replay as one self-contained HTML page, or as a picture."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from greencache.bench import charts
from greencache.bench.replay import PlanResult, Replay
from greencache.bench.sensitivity import Sensitivity
from greencache.bench.sensitivity_views import tornado
from greencache.bench.table import load_notes, sizes_text, span_text
from greencache.bench.workload_statistics import WorkloadComparison
from greencache.bench.workloads import comparison_rows
from greencache.controller.loop import Decision
from greencache.quantities import format_bytes
from greencache.version import VERSION

__all__ = ["html_report", "png_picture"]

UNSEEN = 0.0005
"""Changes smaller than this print as zero, and are called none."""


def _svg(figure: Figure) -> Markup:
    svg = charts.drawn(figure, "svg").decode()
    return Markup(svg[svg.index("<svg") :])  # drawn by us, so it needs no escaping


def _headline(replay: Replay) -> list[str]:
    """What the replay says, in sentences."""
    full, base, best = (replay.result(name) for name in ("full", "hbm-only", "best-static"))
    sentences = []
    both_valid = full and base and full.valid and base.valid
    if full and base and both_valid and full.measured and base.measured:
        served = [full.measured.served, base.measured.served]
        hits = [each.hit_rate_tokens for each in served]
        ttft_s = [each.ttft.percentile_s(50) for each in served]
        faster = 1 - ttft_s[0] / ttft_s[1]
        energy = 1 - full.measured.carbon.total_energy_kwh / base.measured.carbon.total_energy_kwh
        carbon = _change(replay.saving(full, "hbm-only") or 0.0)
        sentences.append(
            f"Keeping everything (full) serves {hits[0]:.1%} of prompt tokens from cache "
            f"against {hits[1]:.1%} in HBM alone. "
            f"Median TTFT is {_change(faster)}, energy {_change(energy)}, carbon {carbon}, per "
            "output token."
        )
    elif full and base and full.valid and not base.valid:
        sentences.append(
            f"Keeping everything (full) meets the SLO on this hardware; HBM alone does not "
            f"({base.invalid_because})."
        )
    if best and best.valid and base and (saving := replay.saving(best, "hbm-only")) is not None:
        dram, ssd = best.mean_sizes
        if (dram or ssd) and saving >= UNSEEN:
            sentences.append(
                f"The best fixed size, known only in hindsight, is {_size(dram)} DRAM and "
                f"{_size(ssd)} SSD: its carbon per output token is "
                f"{_change(saving)} than with HBM alone."
            )
        else:
            sentences.append(
                "The best fixed size, known only in hindsight, is nothing beside HBM: no DRAM or "
                "SSD that was tried saves more carbon here than it costs."
            )
    return sentences


def _size(count: int) -> str:
    return f"{format_bytes(count)} of" if count else "no"


def _change(saving: float) -> str:
    if abs(saving) < UNSEEN:
        return "the same"
    return f"{abs(saving):.1%} {'lower' if saving >= 0 else 'higher'}"


def _row(replay: Replay, result: PlanResult) -> dict[str, object]:
    scope = replay.setup.scope
    measured = result.measured
    row: dict[str, object] = {
        "result": result,
        "measured": measured,
        "sizes": sizes_text(result),
    }
    if measured is not None:
        carbon, served = measured.carbon, measured.served
        row |= {
            "served": served,
            "ttft": [served.ttft.percentile_s(percent) for percent in (50, 90, 99)],
            "tpot": served.tpot and [served.tpot.percentile_s(percent) for percent in (50, 90)],
            "operational_g": carbon.total_operational_g,
            "embodied_g": carbon.total_embodied_g(scope),
            "energy_kwh": carbon.total_energy_kwh,
            "saving": replay.saving(result, "hbm-only") if result.plan != "hbm-only" else None,
        }
    return row


def _worth_telling(decisions: tuple[Decision, ...]) -> list[Decision]:
    """Decisions that changed a size or advised to, or fell back otherwise than the one before."""
    told = []
    before: str | None = None
    for decision in decisions:
        changed = decision.before != decision.sizes or decision.advised != decision.sizes
        if changed or decision.fallback != before:
            told.append(decision)
        before = decision.fallback
    return told


def html_report(
    replay: Replay,
    sensitivity: Sensitivity | None = None,
    comparison: WorkloadComparison | None = None,
) -> str:
    """The page, with its plots as SVG inside; it needs no network and no script.

    Parameters are those of `greencache.bench.results.as_json`.
    """
    environment = Environment(
        loader=PackageLoader("greencache.bench"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"bytes": format_bytes, "span": span_text}
    plots = []
    if any(result.measured is not None for result in replay.results):
        plots = [
            (_svg(charts.carbon_by_component(replay)), "Carbon by component and plan"),
            (_svg(charts.hit_rate_by_tier(replay)), "Hit rate by tier and plan"),
            (_svg(charts.ttft(replay)), "Distribution of the time to first token"),
            (_svg(charts.carbon_over_time(replay)), "Carbon and tier capacity over time"),
        ]
    figure = sensitivity and tornado(sensitivity)
    if figure:
        plots.append((_svg(figure), "Sensitivity to each factor"))
    return environment.get_template("replay.html").render(
        replay=replay,
        setup=replay.setup,
        headline=_headline(replay),
        rows=[_row(replay, result) for result in replay.results],
        unseen=UNSEEN,
        decided=[
            (result.plan, told)
            for result in replay.results
            if (told := _worth_telling(result.decisions))
        ],
        comparison=comparison and comparison_rows(comparison),
        load_notes=load_notes(replay.setup),
        plots=plots,
        factors=replay.setup.factors.as_json(),
        version=VERSION,
    )


def png_picture(replay: Replay) -> bytes:
    """Carbon, hit rate and TTFT in one picture."""
    return charts.drawn(charts.overview(replay), "png")
