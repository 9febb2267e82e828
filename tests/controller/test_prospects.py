"""The planner's instance: consistent in itself, and with what each part says alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.catalog import Catalog
from greencache.controller.calibration import Calibration
from greencache.controller.demand import EngineLimits, ServiceModel
from greencache.controller.models import find_model
from greencache.controller.performance import serving_hardware
from greencache.controller.prices import Prices
from greencache.controller.prospects import Outlook, Prospects, ProspectsModel
from greencache.controller.reuse import RequestSample, ReuseProfile
from greencache.errors import InputError
from greencache.factors import Factors

HOUR_S = 3600.0
TB = 1e12
DRAMS, SSDS = (0.0, 256e9), (0.0, 1 * TB, 2 * TB, 4 * TB)
SHARES = np.array([[0.1, 0.3, 0.4, 0.45], [0.2, 0.3, 0.4, 0.45]])
"""Prompt tokens found at each pair of sizes."""


def profile_of(requests: int = 2000) -> ReuseProfile:
    generator = np.random.default_rng(0)
    tokens = np.ceil(generator.lognormal(8.0, 1.0, requests))
    answers = np.ceil(generator.exponential(200.0, requests))
    # HBM holds the first tenth of a prompt, DRAM and SSD as much as the table says.
    share = np.concatenate([[0.1], SHARES[:, 0], SHARES[0]])
    held = np.floor(tokens[:, None] / 512 * share)
    prefix = SHARES[..., None] * tokens
    computed = tokens - prefix
    found = np.stack(
        [
            np.full_like(SHARES, 0.1),
            np.broadcast_to(SHARES[:, :1] - 0.1, SHARES.shape),
            SHARES - SHARES[:, :1],
        ],
        axis=-1,
    )
    return ReuseProfile(
        block_tokens=512,
        dram_blocks=(0, 1500),
        ssd_blocks=(0, 6000, 12000, 24000),
        requests=float(requests),
        input_tokens=float(tokens.mean()),
        output_tokens=float(answers.mean()),
        found=found,
        computed_tokens=computed.mean(axis=-1),
        attended=(computed * (prefix + (computed + 1) / 2)).mean(axis=-1),
        written=np.array([0.0, 0.7, 0.6, 0.55]),
        sample=RequestSample(generator.exponential(1.0, requests), tokens, answers, held),
    )


@pytest.fixture(scope="module")
def model(catalog: Catalog) -> ProspectsModel:
    factors = Factors.of(catalog, catalog.part("gpu", "L40"))
    hardware = serving_hardware(
        catalog,
        find_model("llama-3.1-70b"),
        "4xL40",
        weight_dtype="int8",
        block_tokens=512,
        factors=factors,
    )
    service = ServiceModel(hardware, EngineLimits(15.0, 0.2, 2048, HOUR_S), np.full(4, 7e9))
    prices = Prices(factors, 4, DRAMS[-1], SSDS[-1])
    return ProspectsModel(service, prices, np.array(DRAMS), np.array(SSDS))


def outlook(requests: list[float], gco2_per_kwh: float = 50.0) -> Outlook:
    loads = np.array(requests)
    return Outlook(loads, loads[None], loads, np.full(len(loads), gco2_per_kwh))


def instance(
    model: ProspectsModel, requests: list[float], content: float = 0.0, backlog_s: float = 0.0
) -> Prospects:
    forecasts = outlook(requests)
    return model.instance(profile_of(), forecasts, content_bytes=content, backlog_s=backlog_s)


def choice(dram: int, ssd: int) -> int:
    return dram * len(SSDS) + ssd


def test_shapes_are_those_of_intervals_states_and_choices(model: ProspectsModel) -> None:
    made = instance(model, [100.0, 200.0, 300.0])
    shape = (3, 13 * 4, 8)
    assert made.grams.shape == made.attained.shape == made.next_node.shape == shape
    assert model.states == shape[1]
    assert made.choices.tolist() == [[d, s] for d in range(2) for s in range(4)]
    assert (made.grams > 0).all()
    assert (made.attained >= 0).all()
    assert (made.attained <= made.requests[:, None, None] * (1 + 1e-9)).all()
    assert made.next_node.min() >= 0
    assert made.next_node.max() < model.states


def test_a_full_tier_costs_and_serves_what_is_expected_of_its_size(model: ProspectsModel) -> None:
    made = instance(model, [200.0])
    for dram, ssd in ((0, 0), (0, 2), (1, 3)):
        expected = model.expected(
            profile_of(),
            200.0,
            50.0,
            dram_bytes=DRAMS[dram],
            content_bytes=SSDS[ssd],
            ssd_bytes=SSDS[ssd],
        )
        at = 0, model.node(SSDS[ssd], 0.0), choice(dram, ssd)
        assert made.grams[at] == pytest.approx(expected.grams, rel=1e-9)
        assert made.attained[at] == pytest.approx(200 * expected.attainment, rel=1e-9)


def test_drives_that_hit_alike_are_told_apart_by_how_fast_they_read(model: ProspectsModel) -> None:
    profile = profile_of()
    found = profile.found.copy()
    found[..., 2:] = found[..., 2:3]
    alike = replace(
        profile,
        found=found,
        computed_tokens=profile.computed_tokens[:, [0, 1, 2, 2]],
        attended=profile.attended[:, [0, 1, 2, 2]],
    )
    limits = EngineLimits(1.0, 0.2, 2048, HOUR_S)
    speeds = np.array([7e9, 7e9, 0.7e9, 7e9])
    service = ServiceModel(model.service.hardware, limits, speeds)
    slow, fast = service.attained(alike, 1.0, np.array([0.01]), np.zeros(1)).share[0, 0, 0, 2:]
    assert slow < fast


def test_a_larger_tier_is_worth_nothing_before_it_is_filled(model: ProspectsModel) -> None:
    """Next to nothing is written in an hour without requests, and so nothing found."""
    made = instance(model, [0.01, 200.0])
    empty, full = model.node(0.0, 0.0), model.node(4 * TB, 0.0)
    four = choice(0, 3)
    assert made.attained[1, full, four] > made.attained[1, empty, four]
    assert made.next_node[0, empty, four] == empty
    assert made.next_node[0, full, four] == full


def test_what_is_written_fills_a_tier_level_by_level(model: ProspectsModel) -> None:
    """200 requests write about 200 * 4,900 tokens * 0.7 * 0.33 MB = 0.22 TB an hour."""
    profile, hours = profile_of(), 24
    made = model.instance(profile, outlook([200.0] * hours), content_bytes=0.0, backlog_s=0.0)
    node, four = made.start_node, choice(0, 3)
    per_request = profile.input_tokens * model.service.hardware.layout.bytes_per_token
    content = 0.0
    for t in range(hours):
        node = made.next_node[t, node, four]
        share = np.interp(max(content, SSDS[1]), SSDS, profile.written)
        content = min(content + 200 * per_request * share, 4 * TB)
    levels = len(model.backlog_s)
    assert model.content_bytes[node // levels] == pytest.approx(content, abs=0.7 * TB)
    assert content > 2 * TB


def test_an_hour_that_begins_late_stays_late_for_a_while(model: ProspectsModel) -> None:
    """Also if less is left over than the limit allows: whoever comes then waits for it."""
    made = instance(model, [200.0])
    levels = range(len(model.backlog_s))
    in_time = [made.attained[0, level, choice(0, 0)] for level in levels]
    assert in_time == sorted(in_time, reverse=True)
    assert in_time[1] < 0.99 * in_time[0]
    late = instance(model, [200.0], backlog_s=model.backlog_s[2])
    assert late.start_node == 2
    # A larger tier helps the more, the more waits.
    gains = [made.attained[0, level, choice(1, 0)] / in_time[level] for level in levels]
    assert gains[2] > gains[0]


def test_a_selective_tier_has_most_of_its_hits_after_an_hour(model: ProspectsModel) -> None:
    selective = ProspectsModel(
        model.service, model.prices, model.dram_bytes, model.ssd_bytes, selective=True
    )
    made = instance(selective, [200.0])
    four = choice(0, 3)
    none, empty, settled, full = (
        made.attained[0, selective.node(content, 0.0), size]
        for content, size in ((0.0, choice(0, 0)), (0.0, four), (0.5 * TB, four), (4 * TB, four))
    )
    assert none < empty < settled
    assert settled == pytest.approx(full)
    # Reuse within half an hour: none at first, all from then on.
    assert (empty - none) / (full - none) == pytest.approx(0.75, abs=0.02)


def test_a_shrink_throws_away_what_does_not_fit(model: ProspectsModel) -> None:
    made = instance(model, [0.01], content=4 * TB)
    assert made.start_node == model.node(4 * TB, 0.0)
    after = made.next_node[0, made.start_node, choice(0, 1)]
    assert after == model.node(1 * TB, 0.0)


def test_work_left_over_delays_who_comes_next_and_is_made_up_for(model: ProspectsModel) -> None:
    made = instance(model, [100.0])
    none, some = model.node(0.0, 0.0), model.node(0.0, 900.0)
    assert made.attained[0, some, 0] < 0.95 * made.attained[0, none, 0]
    assert made.next_node[0, some, 0] == none


def test_an_overload_leaves_work_over_and_serves_hardly_anybody(model: ProspectsModel) -> None:
    made = instance(model, [3000.0])
    assert made.attained[0, 0, 0] < 0.1 * 3000
    assert made.next_node[0, 0, 0] == model.node(0.0, 900.0)


def test_more_load_is_never_served_better(model: ProspectsModel) -> None:
    made = instance(model, [50.0, 150.0, 400.0, 900.0])
    share = made.attained / made.requests[:, None, None]
    assert (np.diff(share, axis=0) <= 0.01).all()


def test_a_dirtier_grid_makes_reuse_worth_more(model: ProspectsModel) -> None:
    profile, full = profile_of(), model.node(4 * TB, 0.0)
    savings = []
    for gco2 in (10.0, 500.0):
        made = model.instance(profile, outlook([300.0], gco2), content_bytes=4 * TB, backlog_s=0.0)
        savings.append(made.grams[0, full, choice(0, 0)] - made.grams[0, full, choice(0, 1)])
    assert savings[0] < savings[1]


def test_calibration_moves_what_it_is_about(model: ProspectsModel) -> None:
    profile, forecasts = profile_of(), outlook([200.0])
    plain = model.instance(profile, forecasts, content_bytes=0.0, backlog_s=0.0)
    worse = Calibration(requests=5000.0, predicted=4500.0, met=4000.0, energy=1.2)
    mended = model.instance(profile, forecasts, content_bytes=0.0, backlog_s=0.0, calibration=worse)
    assert (mended.attained < plain.attained).all()
    assert (mended.grams > plain.grams).all()


def test_replicas_share_the_load(model: ProspectsModel) -> None:
    service, prices = model.service, replace(model.prices, replicas=2)
    two = ProspectsModel(
        ServiceModel(service.hardware, service.limits, np.full(4, 7e9), replicas=2),
        prices,
        model.dram_bytes,
        model.ssd_bytes,
    )
    one, both = instance(model, [200.0]), instance(two, [400.0])
    np.testing.assert_allclose(both.attained, 2 * one.attained)
    np.testing.assert_allclose(both.grams, 2 * one.grams)
    np.testing.assert_array_equal(both.next_node, one.next_node)


def test_what_cannot_be_planned_is_refused(model: ProspectsModel) -> None:
    empty = replace(profile_of(), sample=RequestSample(*(np.zeros(0),) * 3, np.zeros((0, 7))))
    with pytest.raises(InputError, match="no request was seen"):
        model.instance(empty, outlook([1.0]), content_bytes=0.0, backlog_s=0.0)
    with pytest.raises(InputError, match="forecasts"):
        instance(model, [1.0, np.nan])
    with pytest.raises(InputError, match="rise from 0"):
        ProspectsModel(
            model.service,
            model.prices,
            model.dram_bytes,
            model.ssd_bytes,
            backlog_s=np.array([1.0, 2.0]),
        )
