"""Scales, ticks and figures: places worked by hand, and the numbers of the table in every drawing."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from burnish.evaluation import plots
from burnish.evaluation.calibration import CoveragePoint, ReliabilityBin
from burnish.evaluation.evidence_lines import with_evidence
from burnish.evaluation.figures import (
    Categories,
    Frontier,
    Look,
    Place,
    Rates,
    lengths,
    make_figures,
    mean_of_behaviours,
    thinned,
    trainings,
)
from burnish.evaluation.intervals import Interval
from burnish.evaluation.lines import Cell, make_lines
from burnish.evaluation.retention import KLEvidence, KLRecord
from burnish.evaluation.suite import Suite, evaluate
from burnish.evaluation.svg import Chart, Scale, mark, shortened, tick_text
from tests.evaluation.made import GOOD, RAW, ScriptedModel

NAMES = ("raw", "sft")


def test_a_scale_maps_its_ends_and_holds_what_is_beyond() -> None:
    scale = Scale(0.0, 10.0, 100.0, 0.0)
    assert [scale(value) for value in (0.0, 2.5, 10.0, 11.0, -1.0)] == [100.0, 75.0, 0.0, 0.0, 100.0]


def test_a_scale_over_one_value_has_room() -> None:
    scale = Scale.over([3.0, 3.0], 0.0, 1.0)
    assert scale.low < 3.0 < scale.high
    zero = Scale.over([0.0], 0.0, 1.0)
    assert zero.low < 0.0 < zero.high


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 96.0, 5, [0.0, 20.0, 40.0, 60.0, 80.0]),
        (-0.03, 0.07, 5, [-0.02, 0.0, 0.02, 0.04, 0.06]),
        (3.51, 3.74, 4, [3.6, 3.7]),
        (1200.0, 5200.0, 4, [2000.0, 3000.0, 4000.0, 5000.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, about: int, ticks: list[float]) -> None:
    assert Scale(low, high, 0.0, 1.0).ticks(about) == pytest.approx(ticks)


def test_ticks_are_few_whatever_the_span() -> None:
    for exponent in range(-9, 10):
        for start in (0.0, 1.37, -4.2):
            scale = Scale(start * 10.0**exponent, (start + 1.73) * 10.0**exponent, 0.0, 1.0)
            assert 2 <= len(scale.ticks(5)) <= 6
            assert all(scale.low <= tick <= scale.high for tick in scale.ticks(5))


def test_tick_texts() -> None:
    assert tick_text(-0.02, percent=True) == "\u22122\u00a0%"
    assert tick_text(0.30000000000000004) == "0.3"
    assert tick_text(-0.0) == "0"
    assert tick_text(2000.0) == "2000"


def test_models_differ_by_shape_and_by_colour() -> None:
    drawn = [mark(model, 0.0, 0.0) for model in range(6)]
    assert len({re.search(r' d="([^"]+)"', one)[1] for one in drawn}) == 6  # type: ignore[index]
    assert len({re.search(r'class="([^"]+)"', one)[1] for one in drawn}) == 6  # type: ignore[index]


def test_a_long_name_is_cut_with_a_sign() -> None:
    assert shortened("a" * 100, 60.0).endswith("\u2026")
    assert shortened("abc", 60.0) == "abc"


def test_a_chart_says_what_it_shows() -> None:
    svg = Chart("k", "A <title>", "What it shows", 100.0, 50.0).markup
    assert '<title id="k-title">A &lt;title&gt;</title><desc id="k-desc">What it shows</desc>' in svg
    assert 'role="img" aria-labelledby="k-title k-desc"' in svg


def cell(value: float, low: float, high: float, text: str) -> Cell:
    return Cell(value, low, high, text, f"{low:g}\u2013{high:g}")


def places_of(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"translate\((-?[\d.]+) (-?[\d.]+)\)", svg)]


def test_a_frontier_puts_each_model_in_its_place() -> None:
    points = (
        Place(0, cell(0.0, 0.0, 0.0, "0.0 %"), cell(0.1, 0.05, 0.15, "10 %")),
        Place(1, cell(0.04, 0.03, 0.05, "+4.0 %"), cell(0.8, 0.7, 0.9, "80 %")),
    )
    svg = plots.frontier(Frontier("retention", "nats", "behaviours", True, True, True, points), NAMES)
    (x0, y0), (x1, y1) = places_of(svg)
    # Across from 0 to 0.05 with a margin of 12 % on both sides: -0.006 to 0.056 over 40 to 346.
    assert x0 == pytest.approx(40 + 306 * 0.006 / 0.062, abs=0.1)
    assert x1 == pytest.approx(40 + 306 * 0.046 / 0.062, abs=0.1)
    assert y0 > y1
    assert svg.count('class="whisker') == 3  # the first has not moved from itself
    for text in ("+4.0 %", "80 % (0.7\u20130.9)", "sft"):
        assert text in svg


def test_names_do_not_cover_each_other() -> None:
    same = cell(0.5, 0.45, 0.55, "50 %")
    points = tuple(Place(model, same, same) for model in range(4))
    svg = plots.frontier(Frontier("kl", "KL", "reward", False, False, False, points), ["aaaa", "bbbb", "cccc", "dddd"])
    spots = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name">', svg)
    assert len(set(spots)) == 4


def test_lengths_are_counted_by_hand(suite: Suite) -> None:
    cards = [evaluate(ScriptedModel("raw", RAW), suite), evaluate(ScriptedModel("good", GOOD), suite)]
    raw, good = lengths(cards, make_lines(cards))
    # The limit is 32: 24 bins of 4/3 tokens. All raw answers were cut off; good ones have 1 to 8 words.
    assert raw.shares[-1] == 1.0
    assert raw.quantiles == (32.0,) * 5
    words = [len(GOOD[row.prompt].split()) for row in suite.rows]
    assert good.quantiles[2] == np.median(words)
    assert math.fsum(good.shares) == pytest.approx(1.0)
    for share, low, high in zip(good.shares, good.edges, good.edges[1:], strict=False):
        assert share == sum(low <= n < high for n in words) / 8
    svg = plots.lengths([raw, good], ("raw", "good"))
    assert "mean 32.0, median 32; 0\u00a0% stop" in svg


def test_the_mean_of_behaviours_counts_each_the_same(suite: Suite) -> None:
    half = {**RAW, "What is the capital of France?": "Paris.", "Name a colour in one word.": "Blue"}
    mean = mean_of_behaviours(evaluate(ScriptedModel("half", half), suite))
    # answers 1 of 2, format 1 of 1, five others 0 of 1: (1/2 + 1) / 7. Wilson: 1 of 2 is 0.094531 to 0.905469, 1 of 1
    # from 0.206549, 0 of 1 up to 0.793451; below 1/7 sqrt(0.405469^2 + 0.793451^2), above with 5 of the latter.
    assert mean.value == pytest.approx(1.5 / 7)
    assert mean.interval.low == pytest.approx((1.5 - 0.891050) / 7, abs=1e-6)
    assert mean.interval.high == pytest.approx((1.5 + 1.819953) / 7, abs=1e-6)


def test_a_frontier_needs_two_models_and_a_measure(suite: Suite) -> None:
    cards = [evaluate(ScriptedModel("raw", RAW), suite), evaluate(ScriptedModel("good", GOOD), suite)]
    lines = make_lines(cards)
    (found,) = make_figures(cards, lines).frontiers
    change = next(line for line in lines if line.key == "nats_per_token").changes[1]
    assert change is not None
    assert found.places[1].x.text == change.text
    assert found.places[0].x.value == 0.0
    assert make_figures(cards[:1], make_lines(cards[:1])).frontiers == ()
    assert make_figures(cards, [line for line in lines if line.group != "retention"]).frontiers == ()


def test_the_reward_s_kl_is_that_of_the_answers_where_it_was_measured(suite: Suite) -> None:
    """The reward is on answers to prompts; raw text is the second best, and the axis says which of the two it is."""
    cards = [evaluate(ScriptedModel("raw", RAW), suite), evaluate(ScriptedModel("good", GOOD), suite)]
    prose = KLEvidence("raw", (KLRecord("p", "prose", 0.2, 1),) * 3, 0)
    answers = KLEvidence("raw", (KLRecord("a", "answers", 0.7, 1),) * 3, 0)
    found = {}
    for place, (where, evidence) in enumerate(
        [("prose", {"kl": prose}), ("both", {"kl": prose, "kl_prompts": answers})]
    ):
        moved = [cards[0], replace(cards[1], **evidence)]
        (found[where],) = (
            one for one in make_figures(moved, with_evidence(make_lines(moved), moved)).frontiers if one.key == "kl"
        )
        assert found[where].places[1].x.value == pytest.approx([0.2, 0.7][place])
    assert found["prose"].x_title == "KL from raw on raw text, nats per token"
    assert found["both"].x_title == "KL from raw in answers, nats per token"


def test_categories_draw_every_cell_and_leave_out_what_was_not_measured() -> None:
    rates = cell(0.25, 0.1, 0.4, "25 %")
    data = Categories("harm", "refuses harm", Rates("all", 8, (rates, rates)), (Rates("fraud", 3, (None, rates)),))
    svg = plots.categories(data, NAMES)
    assert svg.count('class="whisker') == 3
    assert "fraud" in svg
    assert "n = 3" in svg
    # Legend marks aside, a quarter of the way from 138 to 346.
    assert {x for x, _ in places_of(svg)[2:]} == {138 + 208 * 0.25}


def test_a_reliability_diagram_puts_accuracy_over_confidence_and_counts_each_bin() -> None:
    bins = [
        ReliabilityBin(0.0, 0.5, 0, None, None, None),
        ReliabilityBin(0.5, 1.0, 8, 0.8, 0.25, Interval(0.1, 0.6)),
    ]
    svg = plots.reliability(1, "sft", bins, "calibration error 0.550 (0.2\u20130.8)")
    # The plot is from 44 to 246 across and from 224 (nothing right) up to 54; the first mark is the legend's.
    assert places_of(svg)[1:] == [(pytest.approx(44 + 202 * 0.8, abs=0.1), pytest.approx(224 - 170 * 0.25, abs=0.1))]
    assert "L205.6 122.0" in svg  # the upper end of the interval: 224 - 170 * 0.6
    assert re.search(r'class="count">8</text>', svg)
    assert "calibration error 0.550" in svg


def test_a_coverage_curve_ends_where_all_are_answered() -> None:
    curve = [
        CoveragePoint(0.9, 0.5, 4, 1.0, Interval(0.5, 1.0)),
        CoveragePoint(0.3, 1.0, 8, 0.5, Interval(0.2, 0.8)),
    ]
    svg = plots.coverage({0: curve, 1: curve[1:]}, NAMES)
    assert "99\u00a0% right of all" in plots.coverage({0: [replace(curve[1], accuracy=249 / 250)]}, NAMES)
    (first, second) = re.findall(r'<polyline class="curve (m\d)" points="([^"]+)"', svg)
    assert (first[0], second[0]) == ("m0", "m1")
    xs = [float(pair.split(",")[0]) for pair in first[1].split()]
    assert xs == [44 + 302 * 0.5, 346.0]
    assert second[1] == first[1].split()[1]


def test_training_curves_leave_out_steps_without_a_look() -> None:
    run = {
        "stage": "dpo",
        "metrics": ["nats_per_token", "harm", "once"],
        "looks": [
            {"step": 0, "nats_per_token": 3.5, "harm": 0.1, "once": 1.0},
            {"step": 8, "nats_per_token": 3.6, "harm": math.nan},
            {"step": 16, "nats_per_token": 3.8, "harm": 0.9},
        ],
        "kept_step": 8,
        "share": 0.05,
        "guard": "The guard: the kept model lies inside its bounds.",
    }
    (found,) = trainings(NAMES, {"sft": run})
    assert found.model == 1
    assert found.looks == (
        Look("nats per token", (0.0, 8.0, 16.0), (3.5, 3.6, 3.8)),
        Look("harm", (0.0, 16.0), (0.1, 0.9)),
    )
    svg = plots.training_curve(1, "t", "sft", found.looks[0], found.kept)
    assert ">kept</text>" in svg
    assert len(places_of(svg)) == 3
    assert trainings(NAMES, {}) == []


def test_a_long_curve_keeps_its_ends() -> None:
    points = list(range(1000))
    kept = thinned(points, 120)
    assert (kept[0], kept[-1], len(kept)) == (0, 999, 120)
    assert thinned(points[:5], 120) == points[:5]
