"""A sweep computes what points share once, loses nothing to a point that fails, and says which points none beats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from burnish.errors import ConfigError, DataError, Interrupted
from burnish.evaluation.intervals import Interval, Mean
from burnish.pipeline import run as run_module
from burnish.pipeline.grid import read_settings
from burnish.pipeline.recipe import load_recipe
from burnish.pipeline.sweep import (
    Measured,
    Point,
    Sweep,
    _one_card_a_model,
    _write,
    read_card,
    run_sweep,
)
from burnish.pipeline.sweep_page import draw_svg, print_sweep, render_page
from tests.stages.toy import make_model, make_pairs, make_sft_data

RECIPE = """
name: toy
model: base
defaults: {dtype: float32, batch_size: 4, micro_batch_tokens: 96, learning_rate: 1e-2, max_steps: 2}
stages:
  sft: {data: sft.jsonl, lora: {rank: 2}}
  dpo: {from: sft, data: dpo.jsonl, loss: {name: sigmoid, label_smoothing: 0.1}}
  report: {models: {raw: model, dpo: dpo}, sample: 7, max_new_tokens: 2, dtype: float32}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_model(tmp_path / "base")
    make_sft_data(tmp_path / "sft.jsonl")
    make_pairs(tmp_path / "dpo.jsonl")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(recipe: Path, *settings: str, **options: Any) -> Sweep:
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return run_sweep(recipe, settings, out=recipe.parent / "sweep", console=quiet, **options)


def results(recipe: Path, stage: str) -> list[Path]:
    return sorted((recipe.parent / "sweep" / "toy").glob(f"{stage}-????????????"))


def stamps(recipe: Path) -> dict[str, int]:
    paths = (recipe.parent / "sweep" / "toy").glob("*-????????????/run.json")
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_points_share_what_does_not_differ_and_each_has_its_own_links(recipe: Path) -> None:
    found = run(recipe, "dpo.beta=0.05,0.5")
    assert [point.name for point in found.points] == ["dpo.beta=0.05", "dpo.beta=0.5"]
    assert [len(results(recipe, stage)) for stage in ("sft", "dpo", "report-raw", "report-dpo")] == [1, 2, 1, 2]
    records = [
        json.loads((recipe.parent / "sweep" / "points" / point.name / "dpo" / "run.json").read_text())
        for point in found.points
    ]
    losses = [record["config"]["loss"] for record in records]
    assert losses == [{"name": "sigmoid", "label_smoothing": 0.1, "beta": beta} for beta in (0.05, 0.5)]
    plain = json.loads((recipe.parent / "sweep" / "sweep.json").read_text())
    assert plain["axes"] == {"dpo.beta": [0.05, 0.5]}
    assert (plain["subject"], [one["label"] for one in plain["baselines"]]) == ("dpo", ["raw"])
    for point in plain["points"]:
        card = json.loads((recipe.parent / "sweep" / point["stages"]["report-dpo"] / "report.json").read_text())
        rates = [line["cells"][0]["value"] for line in card["lines"] if line["group"] == "behaviours"]
        nats = next(line["cells"][0]["value"] for line in card["lines"] if line["key"] == "nats_per_token")
        assert point["measured"]["dpo"]["alignment"]["value"] == pytest.approx(sum(rates) / len(rates))
        assert point["measured"]["dpo"]["retention"]["value"] == pytest.approx(nats)
    assert any(point["pareto_best"] for point in plain["points"])
    assert "dpo.beta=0.05" in (recipe.parent / "sweep" / "sweep.html").read_text()

    before = stamps(recipe)
    again = run(recipe, "dpo.beta=0.05,0.5,0.9")
    assert all(stamps(recipe)[path] == stamp for path, stamp in before.items()), "what was done stays"
    assert [point.state for point in again.points] == ["done"] * 3
    assert len(results(recipe, "sft")) == 1


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("judge: openai:http://host/v1#m", "stages.report.judge"),
        ("reward: base, baseline: dpo", "stages.report.baseline"),
        ("models: {dpo: dpo, api: 'openai:http://host/v1#m'}", "stages.report.models.api"),
    ],
)
def test_what_a_report_of_one_local_model_can_not_have_is_told_before_a_point_runs(
    recipe: Path, more: str, place: str
) -> None:
    models = "models: {raw: model, dpo: dpo}"
    recipe.write_text(RECIPE.replace(models, more if more.startswith("models") else f"{models}, {more}"))
    with pytest.raises(ConfigError) as caught:
        run(recipe, "dpo.beta=0.05,0.5")
    assert caught.value.where == place
    assert not results(recipe, "sft")


@pytest.mark.parametrize(
    ("old", "new", "settings", "words"),
    [
        (
            "  report:",
            "  quick: {stage: report, models: {raw: model}, sample: 8, max_new_tokens: 2}\n  report:",
            ["dpo.beta=0.05,0.5"],
            r"the recipe has 2 reports \(quick, report\)",
        ),
        ("{raw: model, dpo: dpo}", "{my dpo: dpo, my_dpo: dpo}", ["dpo.beta=0.05,0.5"], "'my dpo' and 'my_dpo' would"),
        ("", "", ["dpo.data=a/b.jsonl,a_b.jsonl"], r"'dpo.data=a/b.jsonl' and 'dpo.data=a_b.jsonl' would"),
    ],
)
def test_what_would_lie_in_one_place_is_refused_before_a_point_runs(
    recipe: Path, old: str, new: str, settings: list[str], words: str
) -> None:
    for name in ("a/b.jsonl", "a_b.jsonl"):
        (recipe.parent / name).parent.mkdir(exist_ok=True)
        make_pairs(recipe.parent / name)
    recipe.write_text(RECIPE.replace(old, new) if old else RECIPE)
    with pytest.raises(ConfigError, match=words):
        run(recipe, *settings)
    assert not (recipe.parent / "sweep").exists()


def test_a_card_has_the_price_of_its_own_model(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("sample: 7", "sample: 7, prices: {dpo: [1, 2]}"))
    cards = {stage.name: stage.config for stage in _one_card_a_model(load_recipe(recipe)).stages}
    assert cards["report-raw"].prices == {}  # type: ignore[attr-defined]
    assert cards["report-dpo"].prices == {"dpo": (1.0, 2.0)}  # type: ignore[attr-defined]


def test_a_point_that_fails_is_named_and_loses_no_other(recipe: Path) -> None:
    found = run(recipe, "dpo.max_length=8,256", "sft.max_steps=1")
    assert [point.state for point in found.points] == ["failed", "done"]
    assert found.failed[0].error["what"]
    assert found.points[1].best
    page = (recipe.parent / "sweep" / "sweep.html").read_text()
    assert "dpo.max_length=8 failed" in page


def test_a_sweep_that_is_cut_off_shows_what_it_has_and_goes_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = run_module._run_stage, {"n": 0}

    def stopping(planned: Any, *rest: Any) -> None:
        if planned.stage.name == "dpo" and (calls := _count()) == 2:
            raise Interrupted(f"stopped, call {calls}")
        original(planned, *rest)

    def _count() -> int:
        calls["n"] += 1
        return calls["n"]

    monkeypatch.setattr(run_module, "_run_stage", stopping)
    with pytest.raises(Interrupted):
        run(recipe, "dpo.beta=0.05,0.5")
    plain = json.loads((recipe.parent / "sweep" / "sweep.json").read_text())
    assert [point["state"] for point in plain["points"]] == ["done", "waiting"]
    assert [point.state for point in run(recipe, "dpo.beta=0.05,0.5").points] == ["done", "done"]
    assert calls["n"] == 3


def test_the_intervals_are_those_of_the_report_whatever_its_seed(recipe: Path) -> None:
    found = run(recipe, "dpo.beta=0.05,0.5", "report.seed=7")
    card = json.loads((recipe.parent / "sweep" / found.points[0].stages["report-dpo"] / "report.json").read_text())
    told = next(line["cells"][0] for line in card["lines"] if line["key"] == "nats_per_token")
    assert found.points[0].measured["dpo"].retention.interval == Interval(told["low"], told["high"])


def test_models_with_tokenizers_of_their_own_compare_by_nats_per_byte(tmp_path: Path) -> None:
    """Of 12 texts of 40 bytes one model has 10 tokens and 30 nats each, the other 20 and 40: 3 and 2 nats per token,
    but 0.75 and 1 per byte, which is what compares. Both have passed the same prompts, so fewer nats decide."""

    def card(name: str, nats: float, tokens: int) -> Measured:
        prose = [{"id": f"p{i}", "nats": nats, "tokens": tokens, "bytes": 40} for i in range(12)]
        found = {
            "records": {"dpo": [{"behaviour": "harm", "passed": passed} for passed in (True, False)]},
            "retention": {"dpo": {"choices": [{"right": True}], "prose": prose}},
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(found))
        return read_card(tmp_path / name, "dpo", "mean", "nats_per_token", tmp_path)

    def sweep_of(*cards: Measured) -> Sweep:
        nothing: Any = None
        points = [Point(f"model={i}", {}, nothing, "done", measured={"dpo": one}) for i, one in enumerate(cards)]
        return _write(Sweep("r", tmp_path, {"model": [0, 1]}, "mean", "nats_per_token", "dpo", tuple(points), ()))

    few, many = card("few", 30.0, 10), card("many", 40.0, 20)
    found = sweep_of(few, many)
    assert [point.measured["dpo"].retention.value for point in found.points] == [0.75, 1.0]
    assert [point.best for point in found.points] == [True, False]
    plain = json.loads((tmp_path / "sweep.json").read_text())
    assert plain["retention"] == "nats_per_byte"
    assert [point["measured"]["dpo"]["nats_per_token"] for point in plain["points"]] == [3.0, 2.0]
    page = (tmp_path / "sweep.html").read_text()
    assert (
        "nats per byte of held-out prose (the models&#39; tokenizers differ, so nats per token would not compare)"
        in page
    )
    assert "so the axis runs backwards" in page
    assert "retention: nats per byte of held-out prose \u2192 better" in page, "short on the axis"
    later = read_card(tmp_path / "few", "dpo", "mean", found.retention, tmp_path)
    assert later.retention.value == 3.0, "nats of a point that follows, until all are brought together"
    same = sweep_of(few, card("like", 20.0, 10))
    assert (same.retention, [point.best for point in same.points]) == ("nats_per_token", [False, True])
    assert [point.measured["dpo"].retention.value for point in same.points] == [3.0, 2.0]


def test_every_point_is_checked_before_the_first_one_runs(recipe: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(recipe, "dpo.beta=0.1,-1")
    assert "beta must be above 0" in caught.value.what
    assert not (recipe.parent / "sweep").exists()
    with pytest.raises(ConfigError, match="no behaviour is called 'harmless'"):
        run(recipe, "dpo.beta=0.1,0.2", alignment="harmless")
    with pytest.raises(ConfigError, match="the report has no model 'sft'"):
        run(recipe, "dpo.beta=0.1,0.2", model="sft")
    recipe.write_text(recipe.read_text().partition("  report:")[0])
    with pytest.raises(ConfigError, match="there is none"):
        run(recipe, "dpo.beta=0.1,0.2")


def test_an_alignment_without_prompts_is_told_before_a_point_runs(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="no prompts of 'open'") as caught:
        run(recipe, "dpo.beta=0.1,0.2", alignment="open")
    assert "answers, format, harm, lookalike, abstain, answerable, topic;" in (caught.value.fix or "")
    row = {"id": "a", "behaviour": "open", "messages": [{"role": "user", "content": "Q?"}]}
    (recipe.parent / "own.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="no prompts of 'open'") as caught:
        run(recipe, "report.prompts=own.jsonl,starter/evaluation", alignment="open")
    assert caught.value.where == "alignment, point report.prompts=starter/evaluation"
    with pytest.raises(DataError, match="can't read"):
        run(recipe, "report.prompts=own.jsonl,nowhere.jsonl", alignment="open")
    with pytest.raises(DataError, match="can't read"):
        run(recipe, "report.prose=starter/prose,nowhere.jsonl")
    assert not (recipe.parent / "sweep").exists()


def test_axes_are_yaml_between_commas_and_single_values_hold_everywhere() -> None:
    axes, fixed = read_settings(["a.b=0.05,1e-3", "c=x", "d=[1,2],[3]", "e={f: 1, g: 2}", "h=true,null"])
    assert axes == {"a.b": [0.05, 0.001], "d": [[1, 2], [3]], "h": [True, None]}
    assert fixed == ["c=x", "e={f: 1, g: 2}"]
    for wrong, message in (
        (["a=1"], "several values"),
        (["a"], "is not key=value"),
        (["a=1,2", "a=3"], "given twice"),
        (["a=1,1"], "takes a value twice"),
        (["a=2026-11-27,2026-11-28"], "is no number, text, list or mapping"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_settings(wrong)


# ---- the page ----


def made(*places: tuple[float, float], failed: bool = False) -> Sweep:
    """Points at (nats per token, alignment); the first ones are best."""

    def mean(value: float, spread: float) -> Mean:
        return Mean(value, Interval(value - spread, value + spread), 12)

    def measured(label: str, nats: float, rate: float) -> Measured:
        return Measured(label, "", mean(rate, 0.1), mean(nats, 0.05), {}, nats, 0.5)

    nothing: Any = None
    points = []
    for number, (nats, rate) in enumerate(places):
        point = Point(f"<beta>={number}", {}, nothing, "done", measured={"dpo": measured("dpo", nats, rate)})
        point.best = number < 2
        points.append(point)
    if failed:
        points.append(Point("beta=9", {}, nothing, "failed", error={"what": "no memory", "where": None, "fix": None}))
    baselines = (measured("raw & plain", 3.5, 0.1),)
    return Sweep("r.yaml", Path(), {"beta": [0, 1]}, "mean", "nats_per_token", "dpo", tuple(points), baselines)


def test_the_figure_is_well_formed_and_lower_nats_lie_to_the_right() -> None:
    svg = ElementTree.fromstring(str(draw_svg(made((3.6, 0.5), (3.9, 0.9), (4.0, 0.4)))))
    circles = svg.findall("circle")
    assert [circle.get("class") for circle in circles] == ["baseline", "best", "best", "other"]
    assert circles[1][0].text == "<beta>=0", "names are escaped"
    x, y = ([float(circle.get(axis) or 0) for circle in circles] for axis in ("cx", "cy"))
    assert x[0] > x[1] > x[2] > x[3], "3.5, 3.6, 3.9, 4.0 nats: fewer is better, further right"
    assert y[2] < y[1] < y[3] < y[0], "0.9 highest"
    ticks = {text.text or "": float(text.get("x") or 0) for text in svg.findall("text") if text.get("class") is None}
    assert 4 <= len(ticks) <= 20
    nats = sorted((text for text in ticks if "%" not in text), key=lambda text: ticks[text])
    assert nats == sorted(nats, reverse=True)
    assert "50\u00a0%" in ticks, "alignment in percent, as in the table"
    told = svg.findtext("desc") or ""
    assert "<beta>=0: alignment 50\u00a0% (40\u201360), retention 3.600 (3.550\u20133.650)" in told


def test_page_and_table_name_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = made((3.6, 0.5), (3.9, 0.9), (4.0, 0.4), failed=True)
    page = render_page(sweep)
    assert "&lt;beta&gt;=0" in page
    assert "<beta>" not in page
    assert "beta=9 failed: no memory" in page
    assert "http" not in page.replace("http-equiv", "")
    print_sweep(sweep, Console(width=120))
    out = capsys.readouterr().out
    assert "50\u00a0% (40–60)" in out
    assert "3.600 (3.550–3.650)" in out
    assert out.count("●") == 3, "two points and the note"
    assert str(draw_svg(made())).count("circle") == 2, "the baseline alone"


def test_nothing_finished_gives_a_page_without_a_figure() -> None:
    nothing: Any = None
    empty = Sweep("r", Path(), {"b": [1, 2]}, "mean", "nats_per_token", "dpo", (Point("b=1", {}, nothing),), ())
    assert "<svg" not in render_page(empty)


def test_beta_is_short_for_the_loss_s(recipe: Path) -> None:
    stage = load_recipe(recipe, ["dpo.beta=0.3"]).stages[1]
    assert stage.config.loss == {"name": "sigmoid", "label_smoothing": 0.1, "beta": 0.3}  # type: ignore[attr-defined]
