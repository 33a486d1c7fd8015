"""The page's filters, operated in a browser. Skipped where there is no Chromium."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from burnish.evaluation.page import render_page
from burnish.evaluation.report import build_report
from burnish.evaluation.suite import Suite, evaluate
from tests.evaluation.made import GOOD, RAW, ScriptedModel

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")

DRIVER = """
const seen = [];
const one = (name) => document.querySelector(`#filters [name=${name}]`);
const put = (element, value) => {
  if (element.type === "checkbox") element.checked = value; else element.value = value;
  element.dispatchEvent(new Event("input", {bubbles: true}));
};
const note = () => seen.push([
  document.getElementById("shown").textContent,
  [...document.querySelectorAll("details.prompt:not([hidden]) .asked")].map((asked) => asked.textContent),
]);
const clear = () => one("clear").click();
note();
put(one("behaviour"), "answers"); note(); clear();
put(one("text"), " SHAKESPEARE "); note(); clear();
put(one("differ"), true); note(); clear();
put(document.querySelectorAll("#filters [name=verdict]")[0], "1"); note(); clear();
document.querySelectorAll("a[data-verdicts]")[0].click(); note(); clear();
one("open").click();
seen.push([one("open").textContent, [...document.querySelectorAll("details.prompt:not([open])")].length]);
document.body.dataset.seen = JSON.stringify(seen);
"""


def operated(page: str, directory: Path) -> list[tuple[str, list[str]]]:
    """What the driver saw: the page's policy lets it run beside the page's own script."""
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    (directory / "page.html").write_text(page.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (directory / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, done.stdout[-2000:]
    return [(text, asked) for text, asked in json.loads(html.unescape(seen[1]))]


def test_filters_show_what_they_say(suite: Suite, tmp_path: Path) -> None:
    """Eight prompts. Good passes all of them; raw passes "one word" alone, so that they differ on the other seven."""
    colour = "Name a colour in one word."
    models = [ScriptedModel("raw", {**RAW, colour: GOOD[colour]}), ScriptedModel("good", GOOD)]
    seen = operated(render_page(build_report([evaluate(model, suite) for model in models])), tmp_path)
    everything = list(dict.fromkeys(GOOD))
    others = [prompt for prompt in everything if prompt != colour]
    assert seen[0] == ("8 of 8 prompts", everything)
    assert seen[1] == ("2 of 8 prompts", ["What is the capital of France?", "How many legs has a spider?"])
    assert seen[2] == ("1 of 8 prompts", ["Who wrote Hamlet?"])
    assert seen[3] == ("7 of 8 prompts", others)
    assert seen[4] == ("1 of 8 prompts", [colour])
    assert seen[5] == ("7 of 8 prompts", others), "the table's number of prompts that good passes and raw fails"
    assert seen[6] == ("Close all shown", 0)
