"""The page: hostile text stays text, every prompt and number is in it, the one script runs by its hash, it is small."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from burnish.data.examples import Message
from burnish.evaluation.answers import Answer
from burnish.evaluation.intervals import Interval, Mean
from burnish.evaluation.lines import Line, mean_cell
from burnish.evaluation.markup import node, visible
from burnish.evaluation.page import interval_bar, render_page
from burnish.evaluation.report import Report, build_report, write_report
from burnish.evaluation.suite import Suite, evaluate, load_suite
from tests.evaluation.demo_page import HOSTILE, demo_report
from tests.evaluation.made import GOOD, RAW, ScriptedModel, user, write_lines

VOID = {"meta", "input", "rect"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text directly in it), in the order in which they open; fails on bad nesting."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def of(self, tag: str, class_: str | None = None) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag and (class_ is None or class_ in attributes.get("class", "").split())
        ]


def report_of(tmp_path: Path, prompt: str, answers: dict[str, str]) -> Report:
    """One prompt, answered by models of these names."""
    row = {"id": "x", "behaviour": "harm", "messages": user(prompt)}
    suite = load_suite(write_lines(tmp_path / "r.jsonl", [row]), choices=None, prose=None)
    return build_report([evaluate(ScriptedModel(name, {prompt: text}), suite) for name, text in answers.items()])


# ---- hostile text ----


@pytest.mark.parametrize("text", [*HOSTILE, "<!--", "]]>", "<svg onload=alert(1)>", "&#x3c;script&#x3e;"])
def test_what_anyone_says_stays_text(tmp_path: Path, text: str) -> None:
    page = render_page(report_of(tmp_path, f"{text} as a prompt", {f"{text} a": text, f"{text} b": "no"}))
    parsed = Page(page)
    assert [name for name, _, _ in parsed.elements].count("script") == 1
    assert not {name for name, _, _ in parsed.elements} & {"img", "iframe", "object", "embed", "link", "base", "form"}
    for _, attributes, _ in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert parsed.of("p", "said")[0][1] == visible(text)
    assert parsed.of("p", "turn")[0][1] == visible(f"{text} as a prompt")
    assert visible(f"{text} a") in parsed.of("h4")[0][1]


def test_the_script_runs_by_its_hash_and_no_other_does(tmp_path: Path) -> None:
    page = render_page(report_of(tmp_path, "a", {"m": "<script>alert(1)</script>"}))
    (_, code), *others = Page(page).of("script")
    assert others == []
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = next(a["content"] for a, _ in Page(page).of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m\x7f", "a\u2400b\u241b[31m\u2421"),
        ("one\r\ntwo\tthree\rfour", "one\ntwo\tthree\u240dfour"),
        ("\x85\u2028\u2029", "[U+0085][U+2028][U+2029]"),
        ("\u202egnp.exe\u202c \u2066x\u2069", "[U+202E]gnp.exe[U+202C] [U+2066]x[U+2069]"),
        ("\ud83d alone", "[U+D83D] alone"),
        ("\ufffe \ufdd0 \U0001ffff", "[U+FFFE] [U+FDD0] [U+1FFFF]"),
        (
            "\u0645\u0631\u062d\u0628\u0627 \U0001f600 \u200d \u4f60",
            "\u0645\u0631\u062d\u0628\u0627 \U0001f600 \u200d \u4f60",
        ),
    ],
)
def test_what_a_browser_would_drop_or_obey_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert shown.encode("utf-8")


def test_half_a_surrogate_pair_loses_no_report(tmp_path: Path) -> None:
    """An endpoint's JSON may hold one; UTF-8 can't."""
    write_report(report_of(tmp_path, "a", {"m": "half \ud83d"}), tmp_path / "out")
    data = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert data["records"]["m"][0]["answer"] == "half \ud83d"
    assert "half [U+D83D]" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_figures_escape_too() -> None:
    assert node("text", "</text><script>", class_='"x') == '<text class="&#34;x">&lt;/text&gt;&lt;script&gt;</text>'


# ---- prompts, filters, differences ----


@pytest.fixture
def report(suite: Suite) -> Report:
    return build_report(
        [evaluate(ScriptedModel(name, script), suite) for name, script in (("raw", RAW), ("good", GOOD))]
    )


def test_every_prompt_has_what_the_filters_go_by(report: Report) -> None:
    prompts = [attributes for attributes, _ in Page(render_page(report)).of("details", "prompt")]
    assert len(prompts) == 8
    for attributes, transcript in zip(prompts, report.transcripts, strict=True):
        assert attributes["data-behaviour"] == transcript.row.behaviour
        assert attributes["data-verdicts"] == "".join("01"[record.passed] for record in transcript.answers)
        assert attributes["data-differ"] == str(int(transcript.differ))
    options = [a["value"] for a, text in Page(render_page(report)).of("option") if text == "one_word"]
    assert [a["data-categories"] for a in prompts if a["data-behaviour"] == "format"] == options


def test_without_scripts_nothing_is_hidden_but_the_filters(report: Report) -> None:
    page = Page(render_page(report))
    assert [attributes.get("id") for _, attributes, _ in page.elements if "hidden" in attributes] == ["filters"]


def test_differences_are_counted_and_lead_to_their_prompts(report: Report) -> None:
    page = Page(render_page(report))
    passed = [[record.passed for record in card.records] for card in report.cards]
    gained = sum(b and not a for a, b in zip(*passed, strict=True))
    assert gained == 8
    links = {a["data-verdicts"]: text for a, text in page.of("a") if "data-verdicts" in a}
    assert links == {"01": str(gained)}
    ids = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    targets = [a["href"].removeprefix("#") for a, _ in page.of("a")]
    assert set(targets) <= ids
    assert len([target for target in targets if re.fullmatch(r"p\d+", target)]) == gained


def test_ids_are_unique(report: Report) -> None:
    ids = [attributes["id"] for _, attributes, _ in Page(render_page(report)).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_one_model_has_no_differences(suite: Suite) -> None:
    page = render_page(build_report([evaluate(ScriptedModel("m", GOOD), suite)]))
    assert "Where models differ" not in page
    assert 'name="differ"' not in page


# ---- the whole ----


def charts_of(page: Page) -> list[str]:
    return [attributes["aria-labelledby"].split("-title")[0] for attributes, _ in page.of("svg", "chart")]


def test_a_full_report_of_four_models_has_every_plot_and_stays_small() -> None:
    report = demo_report()
    html = render_page(report)
    page = Page(html)
    assert len(report.transcripts) == 325
    assert len(page.of("p", "said")) == 4 * 325
    assert len(html.encode("utf-8")) < 3_000_000
    assert charts_of(page) == [
        *("frontier-retention", "frontier-kl", "by-behaviours"),
        *(f"reliability-{model}" for model in range(4)),
        *("coverage", "lengths", "by-harm", "by-lookalike", "by-abstain", "by-answerable"),
        *(f"training-2-{metric}" for metric in range(3)),
    ]
    cells = {text for tag in ("th", "td") for _, text in page.of(tag)}
    for line in (*report.lines, *report.details):
        for cell in line.cells:
            if cell is None:
                continue
            told = f"{cell.text} ({cell.interval})"
            if line.key in ("reward_score", "kl", "tokens", "stops", "harm") or line.group == "harm":
                assert told in cells
            if line.key == "ece":
                assert f"calibration error {told}" in html


def test_the_json_has_the_numbers_of_the_plots(report: Report) -> None:
    data = report.to_dict()["figures"]
    (frontier,) = data["frontiers"]
    assert [place["model"] for place in frontier["places"]] == ["raw", "good"]
    assert [place["y"]["text"] for place in frontier["places"]] == ["0\u00a0%", "100\u00a0%"]
    assert [one["model"] for one in data["lengths"]] == ["raw", "good"]
    html = render_page(report)
    for place in frontier["places"]:
        assert place["x"]["text"] in html
        assert place["y"]["text"] in html


def test_plots_stand_only_where_their_data_are(report: Report, tmp_path: Path) -> None:
    assert charts_of(Page(render_page(report))) == [
        *("frontier-retention", "by-behaviours", "reliability-0", "reliability-1", "coverage", "lengths")
    ]
    alone = report_of(tmp_path, "a", {"m": "no"})
    assert charts_of(Page(render_page(alone))) == ["by-behaviours", "lengths"]


@dataclass
class Endpoint:
    """Gives answers, and neither log-probs nor counts of tokens."""

    name: str

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Answer]:
        return [Answer("I can't say.", True, None) for _ in conversations]


def test_a_model_that_tells_less_has_gaps_and_no_plots_of_its_own(suite: Suite) -> None:
    cards = [evaluate(ScriptedModel("raw", RAW), suite), evaluate(Endpoint("api"), suite)]
    for first, second in (cards, reversed(cards)):
        report = build_report([first, second])
        page = Page(render_page(report))
        own = report.models.index("raw")
        assert charts_of(page) == ["by-behaviours", f"reliability-{own}", "coverage", "lengths"]
        assert len(page.of("details", "prompt")) == 8


def test_every_chart_says_what_it_shows(report: Report) -> None:
    page = Page(render_page(report))
    ids = {attributes["id"]: "".join(text) for _, attributes, text in page.elements if "id" in attributes}
    for attributes, _ in page.of("svg", "chart"):
        assert attributes["role"] == "img"
        title, desc = attributes["aria-labelledby"].split()
        assert ids[title]
        assert ids[desc]


def test_bars_of_numbers_below_zero_have_their_places() -> None:
    """Two reward scores, over a scale that goes 15 % of -2 to 1 beyond both ends."""
    cells = (mean_cell(Mean(-1.5, Interval(-2.0, -1.0), 9), 2), mean_cell(Mean(0.5, Interval(0.0, 1.0), 9), 2))
    assert (cells[0].text, cells[0].interval) == ("\u22121.50", "\u22122.00\u2013\u22121.00")
    line = Line("reward_score", "preference", "t", "a", "r", 9, "score", True, cells, (None, None))
    lefts = [float(re.search(r'class="band" x="([\d.]+)"', interval_bar(line, cell))[1]) for cell in cells]  # type: ignore[index]
    # From -2.45 to 1.45: -2 lies at 0.45 / 3.9, 0 at 2.45 / 3.9.
    assert lefts == [pytest.approx(100 * 0.45 / 3.9, abs=0.01), pytest.approx(100 * 2.45 / 3.9, abs=0.01)]
