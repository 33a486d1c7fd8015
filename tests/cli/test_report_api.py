"""`burnish report` with endpoints, a judge, a reward model, prices, the cache of answers and texts of one's own, as a
user runs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.tools import SMALL, Burnish, demand_one_message, sft
from tests.evaluation.made import write_lines
from tests.rollout.fake_openai import FakeOpenAI, Sent, failed, fake_openai, said

SECRET = "sk-thekeythatnobodymaysee"
FEW = ("--sample", "14", "--max-new-tokens", "4", "--dtype", "float32")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def api(server: FakeOpenAI, model: str = "m") -> str:
    return f"openai:{server.url}#{model}"


def answer(prompt: str, _: int) -> Sent:
    """A polite model, and a judge that takes the longer answer."""
    if "[answer A]" in prompt:
        a, b = (prompt.split(f"[answer {place}]\n")[1].split("\n[end")[0] for place in "AB")
        return said(f"The longer one.\nVerdict: {'A' if len(a) > len(b) else 'B'}", usage=(200, 9))
    return said("I can't help with that, for I do not know.", usage=(20, 10))


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())  # type: ignore[no-any-return]


def line(data: dict[str, Any], key: str) -> dict[str, Any]:
    return next(line for line in data["lines"] if line["key"] == key)


def test_own_model_or_api_is_a_table_and_the_second_one_costs_nothing(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_openai(answer) as server:
        models = ["own=base", f"api={api(server)}", "--judge", api(server, "judge"), "--price", "api=2,6"]
        result = burnish("report", *models, "--out", "card", *FEW)
        assert result.code == 0, result.err
        n_asked = len(server.requests)
        data = read(here / "card")
        assert {request["model"] for request in server.requests} == {"m", "judge"}
        assert data["about_models"][1]["model"] == api(server)
        assert line(data, "harm")["cells"][1]["text"] == "100\u00a0%"
        assert line(data, "multiple_choice")["cells"][1] is None
        assert line(data, "multiple_choice")["cells"][0] is not None
        assert line(data, "latency")["cells"][0]["value"] > 0
        assert line(data, "cost")["cells"][1]["text"] == "0.10"
        assert line(data, "cost")["cells"][0] is None
        judged = data["preference"]["judged"]["api"]
        longer = [len("I can't help with that, for I do not know.") > len(r["answer"]) for r in data["records"]["own"]]
        assert [pair["points"] for pair in judged] == [1.0 if won else 0.0 for won in longer]
        assert "28 verdicts" in data["made"]["judge"]
        assert "cost of 1k answers" in result.out
        assert max(map(len, result.out.splitlines())) <= 80
        page = (here / "card" / "report.html").read_text()
        assert "preferred by judge" in page
        assert "not measured" in result.out

        import burnish.pipeline.responders as module

        monkeypatch.setattr(module, "load_speakers", lambda *_, **__: pytest.fail("a model was loaded"))
        again = burnish("report", *models, "--out", "again", *FEW)
        assert again.code == 0, again.err
        assert len(server.requests) == n_asked
        second = read(here / "again")
        assert second["lines"] == data["lines"]
        # Of 14 prompts 2 are conversations of two turns, which the model holds as well.
        assert second["about_models"][0]["from the cache"] == "18 of 18 answers"
        assert "28 verdicts, 28 of them from the cache" in second["made"]["judge"]
        assert "18 of 18 answers were kept from before" in again.words + " ".join(again.out.split())

        without = burnish("report", f"api={api(server)}", "--out", "third", "--no-cache", *FEW)
        assert without.code == 0, without.err
        assert len(server.requests) == n_asked + 14
    everything = [path for path in here.rglob("*") if path.is_file()]
    assert sum("responses" in path.parts for path in everything) > 40
    assert not any(SECRET.encode() in path.read_bytes() for path in everything)


def test_a_content_filter_ends_no_report_and_its_count_is_told(here: Path, burnish: Burnish) -> None:
    def filtered(prompt: str, before: int) -> Sent:
        """Every second prompt, by the number of its letters: before the model sees it, or in its answer."""
        if len(prompt) % 2:
            return (
                failed(400, "policy", code="content_filter")
                if len(prompt) % 4 == 1
                else said("I", finish="content_filter")
            )
        return answer(prompt, before)

    with fake_openai(filtered) as server:
        result = burnish("report", f"api={api(server)}", "--out", "card", *FEW)
        assert result.code == 0, result.err
        n_filtered = sum(len(prompt) % 2 for prompt in server.prompts)
    data = read(here / "card")
    assert 0 < n_filtered < 14
    assert data["about_models"][0]["content filter"].startswith(f"{n_filtered} of 14 answers")
    assert f"content filter: {n_filtered} of 14 answers" in " ".join((result.err + result.out).split())
    assert "content filter" in (here / "card" / "report.html").read_text()
    records = data["records"]["api"]
    assert sum(record["answer"] == "" for record in records) == n_filtered
    assert not any(record["passed"] for record in records if record["answer"] == "")


def test_each_endpoint_gets_its_own_key_and_no_file_any(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    monkeypatch.setenv("JUDGE_KEY", "sk-judge")
    other = lambda *_: said("Something else.", usage=(20, 3))  # noqa: E731
    with fake_openai(answer) as first, fake_openai(other) as second, fake_openai(answer) as judge:
        models = [f"a={api(first)}", f"b={api(second)}", "--judge", api(judge, "judge")]
        keys = ["--api-key", "b=MY_KEY", "--api-key", "judge=JUDGE_KEY"]
        result = burnish("report", *models, *keys, "--out", "card", *FEW)
        assert result.code == 0, result.err
        assert {*first.keys} == {f"Bearer {SECRET}"}
        assert {*second.keys} == {"Bearer sk-mine"}
        assert {*judge.keys} == {"Bearer sk-judge"}
    assert "--api-key b=MY_KEY" in (here / "card" / "report.json").read_text()
    keys = [SECRET, "sk-mine", "sk-judge"]
    everything = [path.read_bytes() for path in here.rglob("*") if path.is_file()]
    assert not any(key.encode() in content for content in everything for key in keys)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["api=NOT_SET"], "the environment variable NOT_SET is not set where: api_keys.api"),
        (["api=sk-secret"], "give names of environment variables"),
        (["sk-secret"], "not NAME=VARIABLE"),
        (["sk-secret=="], "give names of environment variables"),
        (["apo=MY_KEY"], "no endpoint of the report is called 'apo' (did you mean 'api'?)"),
        (["raw=MY_KEY"], "no endpoint of the report is called 'raw'"),
        (["judge=MY_KEY"], "no endpoint of the report is called 'judge'"),
        (["api=MY_KEY", "api=OTHER"], "api has two keys"),
    ],
)
def test_a_wrong_key_variable_is_told_at_once_and_never_quoted(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch, given: list[str], words: str
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    flags = [word for text in given for word in ("--api-key", text)]
    result = burnish("report", "raw=base", "api=openai:http://host/v1#m", *flags, "--out", "card")
    demand_one_message(result, words, code=2)
    assert "sk-" not in result.out + result.err
    assert not (here / "card").exists()


def test_a_server_that_dies_is_one_message_and_the_same_command_goes_on(here: Path, burnish: Burnish) -> None:
    up = False

    def dying(prompt: str, before: int) -> Sent:
        return answer(prompt, before) if up or len(server.requests) <= 5 else failed(401, f"no key {SECRET}")

    with fake_openai(dying) as server:
        command = ["report", f"api={api(server)}", "--out", "card", *FEW, "--concurrency", "1"]
        result = burnish(*command)
        demand_one_message(result, "401", "model api, openai:", "9 of 14 prompts", "the 5 answers", "OPENAI_API_KEY")
        assert SECRET not in result.out + result.err
        assert not (here / "card").exists()
        up, before = True, len(server.requests)
        assert burnish(*command).code == 0
        assert len(server.requests) - before == 9
    assert read(here / "card")["about_models"][0]["from the cache"] == "5 of 14 answers"


def test_a_retrained_adapter_in_the_same_place_is_asked_anew(here: Path, burnish: Burnish) -> None:
    import shutil

    for learning_rate in ("1e-2", "2e-2"):
        shutil.rmtree(here / "run", ignore_errors=True)
        shutil.rmtree(here / "card", ignore_errors=True)
        assert burnish(*sft("--learning-rate", learning_rate)).code == 0
        assert burnish("report", "sft=run", "raw=base", "--out", "card", *FEW).code == 0
        about = read(here / "card")["about_models"]
        assert "from the cache" not in about[0]
    assert about[1]["from the cache"] == "18 of 18 answers"  # the base is what it was


def test_a_reward_model_says_who_wins(here: Path, burnish: Burnish) -> None:
    flags = {**SMALL, "--model": "base", "--data": "dpo.jsonl", "--out": "rm"}
    result = burnish("reward", *(word for pair in flags.items() for word in pair))
    assert result.code == 0, result.err
    models = ["raw=base", "--reward", "rm"]
    with fake_openai(answer) as server:
        result = burnish("report", *models, f"api={api(server)}", "--out", "card", *FEW)
        assert result.code == 0, result.err
        data = read(here / "card")
        scores = data["preference"]["scores"]
        rows = [
            {"messages": [*record["messages"], {"role": "assistant", "content": record["answer"] or " "}]}
            for name in ("raw", "api")
            for record in data["records"][name]
        ]
        (here / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert burnish("score", "said.jsonl", "--model", "rm", "--out", "scores.jsonl", "--dtype", "float32").code == 0
        own = [json.loads(text)["score"] for text in (here / "scores.jsonl").read_text().splitlines()]
        assert [*scores["raw"], *scores["api"]] == pytest.approx(own, abs=1e-4)
        points = [(b > a) + 0.5 * (a == b) for a, b in zip(scores["raw"], scores["api"], strict=True)]
        assert line(data, "reward_wins")["cells"][1]["value"] == pytest.approx(sum(points) / 14)
        other = burnish("report", *models, f"api={api(server)}", "--out", "b", "--baseline", "api", *FEW)
        assert other.code == 0, other.err
        assert line(read(here / "b"), "reward_wins")["cells"][0]["value"] == pytest.approx(1 - sum(points) / 14)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--judge", "base"], "'base' is not an endpoint"),
        (["--judge", "openai:host"], "is not an endpoint"),
        (["--baseline", "raw"], "give --judge or --reward"),
        (["--baseline", "rwa", "--reward", "x"], "did you mean 'raw'"),
        (["--reward", "base"], "not a reward model"),
        (["--price", "raw=1"], "is not NAME=IN,OUT"),
        (["--price", "rwa=1,2"], "did you mean 'raw'"),
        (["--price", "rwa=1,2"], "where: --price "),
        (["--topic-judge", "bsae"], "where: topic_judge"),
        (["--price", "raw=1,2", "--price", "raw=1,3"], "two prices"),
        (["api=openai:http://host/v1"], "is not an endpoint"),
        (["--timeout", "0"], "where: --timeout"),
        (["--concurrency", "0"], "where: --concurrency"),
    ],
)
def test_what_can_not_be_is_said_before_a_model_is_loaded(
    here: Path, burnish: Burnish, more: list[str], words: str
) -> None:
    result = burnish("report", "raw=base", "other=base", *more, "--out", "card")
    assert result.code in (1, 2)
    assert words in result.words
    assert result.err.count("error: ") == 1
    assert not (here / "card").exists()


def test_an_endpoint_without_a_name_is_called_after_its_model(here: Path, burnish: Burnish) -> None:
    with fake_openai(answer) as server:
        assert burnish("report", api(server, "org/small"), "--out", "card", *FEW).code == 0
    assert read(here / "card")["models"] == ["small"]


# ---- texts of one's own ----

DOMAIN = [
    {"id": "d1", "title": "Not scored", "text": "paris is the capital of france"},
    {"id": "d2", "text": "Hello world, one two three: a question"},
    {"id": "d3", "text": "yes"},
]


def textbook_nats(model: Path, text: str) -> tuple[float, int]:
    """-log p of the tokens after BOS, summed, and their number: transformers' own forward in float64."""
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        logps = network(ids).logits[0, :-1].log_softmax(-1)
    return -float(logps.gather(1, ids[0, 1:, None]).sum()), ids.shape[1] - 1


def test_the_texts_that_are_measured_are_the_user_s(here: Path, burnish: Burnish) -> None:
    file = write_lines(here / "domain.jsonl", DOMAIN)
    result = burnish("report", "raw=base", "same=base", "--out", "card", "--prose", "domain.jsonl", *FEW)
    assert result.code == 0, result.err
    data = read(here / "card")
    expected = [textbook_nats(here / "base", row["text"]) for row in DOMAIN]
    found = data["retention"]["raw"]["prose"]
    assert [text["id"] for text in found] == ["d1", "d2", "d3"]
    assert [text["tokens"] for text in found] == [tokens for _, tokens in expected]
    assert [text["nats"] for text in found] == pytest.approx([nats for nats, _ in expected], rel=1e-4)
    measured = line(data, "nats_per_token")
    assert measured["n"] == 3
    pooled = sum(nats for nats, _ in expected) / sum(tokens for _, tokens in expected)
    assert measured["cells"][0]["value"] == pytest.approx(pooled, rel=1e-4)
    assert [record["id"] for record in data["kl"]["same"]["records"] if record["kind"] == "prose"] == ["d1", "d2", "d3"]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert data["made"]["prose from"] == f"domain.jsonl, 3 rows, sha256 {sha256[:16]}"

    # The cache knows a text by what it says: d1 is scored anew under its old id, and it alone.
    changed = [{**DOMAIN[0], "text": "two questions of one model"}, *DOMAIN[1:]]
    write_lines(file, changed)
    assert burnish("report", "raw=base", "--out", "again", "--prose", "domain.jsonl", *FEW).code == 0
    second = read(here / "again")
    nats = [text["nats"] for text in second["retention"]["raw"]["prose"]]
    total, tokens = textbook_nats(here / "base", changed[0]["text"])
    assert nats[0] == pytest.approx(total, rel=1e-4)
    assert second["about_models"][0]["tokens scored"].startswith(f"{tokens + 1} for multiple choice and prose")  # BOS
    assert nats[1:] == [text["nats"] for text in found[1:]]
    assert second["made"]["prose from"] != data["made"]["prose from"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "d4", "txet": "Hello."}, "unknown field 'txet' (did you mean 'text'?)"),
        ({"id": "d4", "text": " "}, "field 'text' must be a non-empty text"),
        ({"text": "Hello."}, "field 'id' must be a non-empty text"),
        ({"id": "d1", "text": "Hello."}, "id 'd1' is also that of line 1"),
        ("Hello.", "a row must be an object"),
    ],
)
def test_a_text_that_can_not_be_used_is_told_with_file_and_line_before_a_model_is_loaded(
    here: Path, burnish: Burnish, monkeypatch: pytest.MonkeyPatch, row: object, what: str
) -> None:
    import burnish.pipeline.responders as module

    monkeypatch.setattr(module, "load_speakers", lambda *_, **__: pytest.fail("a model was loaded"))
    write_lines(here / "domain.jsonl", [*DOMAIN, row])
    result = burnish("report", "raw=base", "--prose", "domain.jsonl", "--out", "card", *FEW)
    demand_one_message(result, what, "where: domain.jsonl:4")
    assert not (here / "card").exists()


def test_texts_that_are_not_there_are_told(here: Path, burnish: Burnish) -> None:
    result = burnish("report", "raw=base", "--prose", "nowhere.jsonl", "--out", "card", *FEW)
    demand_one_message(result, "No such file", "where: nowhere.jsonl", "starter/prose")
