"""The harness's view of a model, against forwards of transformers' own code and the harness's own arithmetic."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'burnish[lm-eval]')")

from lm_eval.tasks import TaskManager

from burnish.errors import ConfigError, ModelError
from burnish.evaluation import harness_tasks
from burnish.evaluation.harness_results import HarnessResult
from burnish.evaluation.harness_tasks import HarnessTask, load_tasks
from burnish.evaluation.lm_harness import BurnishLM, run_task
from burnish.models.roles import Backbone
from burnish.pipeline.evidence import check_tasks
from burnish.rollout.responder import ModelResponder
from burnish.rollout.speakers import Speaker
from tests.models.families import BOS_ID, EOS_ID, tiny, tiny_tokenizer

pytestmark = pytest.mark.harness


def stock(**overrides: object):  # type: ignore[no-untyped-def]
    return tiny("llama", vocab_size=len(tiny_tokenizer()), **overrides)


def harness(*, add_bos: bool = True, **overrides: object) -> BurnishLM:
    role = Backbone(stock(**overrides)).role()
    return BurnishLM(ModelResponder(Speaker.of("raw", role, tiny_tokenizer(add_bos=add_bos)), batch_size=3))


def ask(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


@torch.no_grad()
def own(model, ids: list[int], n: int) -> tuple[float, bool]:  # type: ignore[no-untyped-def]
    """log p of the last n tokens and whether each is the argmax, from the model's own forward."""
    z = model(torch.tensor([ids])).logits[0, :-1].double()
    logp = torch.log_softmax(z, -1)[-n:]
    targets = torch.tensor(ids[-n:])
    return float(logp.gather(1, targets[:, None]).sum()), bool((logp.argmax(-1) == targets).all())


PAIRS = [
    ("the capital of France is", " Paris"),
    ("the capital of France is", " no"),
    ("hello", " world, how are you"),
    ("one two three", " a"),
    ("a question with a space after it: ", "yes"),
]


@pytest.mark.parametrize("add_bos", [True, False])
def test_loglikelihood_is_transformers_own(add_bos: bool) -> None:
    model, tokenizer = stock(), tiny_tokenizer(add_bos=add_bos)
    found = harness(add_bos=add_bos).loglikelihood([ask(*pair) for pair in PAIRS])
    for (context, continuation), (logp, greedy) in zip(PAIRS, found, strict=True):
        ids = tokenizer(context + continuation)["input_ids"]
        n = len(ids) - len(tokenizer(context.rstrip())["input_ids"])
        expected = own(model, ids, n)
        assert logp == pytest.approx(expected[0], abs=1e-4)
        assert greedy is expected[1]


def test_what_the_model_would_write_is_greedy_and_nothing_else() -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    context = "the capital of"
    ids = tokenizer(context, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=3, do_sample=False, eos_token_id=None)[0, ids["input_ids"].shape[1] :]
    lm = harness()
    given = tokenizer(context)["input_ids"]
    changed = [*out.tolist()[:2], (int(out[2]) + 1) % len(tokenizer)]
    (_, greedy), (_, not_greedy) = lm._score([(given, out.tolist()), (given, changed)])
    assert greedy
    assert not not_greedy


def test_an_empty_context_stands_for_bos() -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    ((logp, _),) = harness().loglikelihood([ask("", "hello world")])
    ids = tokenizer("hello world", add_special_tokens=False)["input_ids"]
    assert logp == pytest.approx(own(model, [BOS_ID, *ids], len(ids))[0], abs=1e-4)


def test_rolling_predicts_each_token_once_with_as_much_context_as_there_is() -> None:
    model, tokenizer = stock(max_position_embeddings=8), tiny_tokenizer()
    text = "the capital of France is Paris and no question of the end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 16
    lm = harness(max_position_embeddings=8)
    (found,) = lm.loglikelihood_rolling([ask(text)])
    # Windows of 7: the first after BOS, the others after the token before them; the last keeps a whole context.
    stream, width = [BOS_ID, *ids], 7
    expected, start = 0.0, 0
    while start < len(ids):
        stop = min(start + width, len(ids))
        begin = max(0, stop - width)
        expected += own(model, stream[begin : stop + 1], stop - start)[0]
        start = stop
    assert found == pytest.approx(expected, abs=1e-3)
    short = harness().loglikelihood_rolling([ask("hello world")])[0]
    assert short == pytest.approx(harness().loglikelihood([ask("", "hello world")])[0][0], abs=1e-4)


def test_a_long_context_is_cut_from_the_left_and_counted() -> None:
    model, tokenizer = stock(max_position_embeddings=8), tiny_tokenizer()
    lm = harness(max_position_embeddings=8)
    context, continuation = "one two three the end of the world and a model", " yes"
    ((logp, _),) = lm.loglikelihood([ask(context, continuation)])
    ids = tokenizer(context + continuation)["input_ids"]
    n = len(ids) - len(tokenizer(context)["input_ids"])
    assert logp == pytest.approx(own(model, ids[-8:], n)[0], abs=1e-4)
    assert lm.truncated == 1
    with pytest.raises(ModelError, match="does not fit"):
        lm.loglikelihood([ask("hello", " one two three and a model of the world in what you answer")])


def test_generation_stops_before_the_first_of_the_texts() -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    ids = tokenizer("the capital", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=EOS_ID)[0, ids["input_ids"].shape[1] :]
    whole = tokenizer.decode(out, skip_special_tokens=True)
    lm = harness()
    assert lm.generate_until([ask("the capital", {"until": ["\x00never"], "max_gen_toks": 12})]) == [whole]
    end = whole[len(whole) // 2 :][:2]
    (cut,) = lm.generate_until([ask("the capital", {"until": [end, "zzz"], "max_gen_toks": 12, "do_sample": False})])
    assert cut == whole[: whole.index(end)]
    with pytest.raises(ConfigError, match="num_beams"):
        lm.generate_until([ask("the", {"until": [], "num_beams": 4})])


@pytest.fixture
def task_files(tmp_path: Path) -> Path:
    """A multiple-choice task of one's own, on a local file."""
    rows = [
        {"question": "the capital of France is", "choices": ["Paris", "no", "two"], "answer": 0},
        {"question": "one two", "choices": ["three", "hello", "world"], "answer": 0},
        {"question": "yes or", "choices": ["a", "no", "is"], "answer": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        f"""
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
    )
    return tmp_path


def test_a_task_of_ones_own_on_a_local_file(task_files: Path) -> None:
    model, tokenizer = stock(), tiny_tokenizer()
    responder = harness().responder
    (task,) = load_tasks(["own_choice", "own_choice"], str(task_files))
    (found,) = run_task(responder, task)
    assert run_task(responder, task) == (found,), "the next model is asked the same"
    assert HarnessResult.of(json.loads(json.dumps(asdict(found)))) == found
    right = []
    for line in (task_files / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        given = len(tokenizer(row["question"])["input_ids"])
        scores = []
        for choice in row["choices"]:
            ids = tokenizer(f"{row['question']} {choice}")["input_ids"]
            scores.append(own(model, ids, len(ids) - given)[0])
        right.append(float(scores.index(max(scores)) == row["answer"]))
    assert (found.task, found.metric, found.n, found.higher_is_better) == ("own_choice", "acc", 3, True)
    assert found.value == pytest.approx(sum(right) / 3)
    assert found.samples == tuple(right)
    assert found.is_rate
    assert found.stderr is not None
    assert not math.isnan(found.stderr)
    assert responder.tokens_scored > 0


def test_an_unknown_task_is_refused(task_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the harness's own files, whose index takes half a minute.
    alone(monkeypatch)
    with pytest.raises(ConfigError, match=r"no task 'own_chioce' \(did you mean 'own_choice'\?\)") as caught:
        check_tasks(["own_chioce"], str(task_files))
    assert caught.value.where == "lm_eval"
    assert [task.name for task in check_tasks(["own_choice"], str(task_files))] == ["own_choice"]


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the harness's own task files."""
    only = {"include_defaults": False}
    monkeypatch.setattr(harness_tasks, "TaskManager", lambda **given: TaskManager(**{**given, **only}))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_what_a_task_asks_is_known_by_its_files_its_settings_and_its_data(task_files: Path, tmp_path: Path) -> None:
    def known() -> str:
        (task,) = load_tasks(["own_choice"], str(place))
        return task.fingerprint

    place = tmp_path / "files"  # the rows lie outside of it
    place.mkdir()
    own = place / "own.yaml"
    own.write_text((task_files / "own.yaml").read_text())
    found = [known()]
    assert known() == found[0]
    change(tmp_path / "rows.jsonl", '"yes or"', '"yes and"')
    found.append(known())
    change(tmp_path / "rows.jsonl", '"answer": 1', '"answer": 2')  # what counts as right, not what is asked
    found.append(known())
    (place / "helpers.py").write_text("END = ''\n\n\ndef text(doc):\n    return doc['question'] + END\n")
    change(own, '"{{question}}"', "!function helpers.text")
    found.append(known())
    change(place / "helpers.py", "END = ''", "END = '?'")  # beside the function that the task names
    found.append(known())
    (tmp_path / "common.yaml").write_text("target_delimiter: ''\n")
    own.write_text(own.read_text() + "include: ../common.yaml\n")
    found.append(known())
    change(tmp_path / "common.yaml", "''", "' - '")
    found.append(known())
    (tmp_path / "shots.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    change(own, "data_files: {", f"data_files: {{shots: {tmp_path / 'shots.jsonl'}, ")
    own.write_text(own.read_text() + "num_fewshot: 1\nfewshot_split: shots\n")
    found.append(known())
    change(tmp_path / "shots.jsonl", '"one two"', '"two one"')
    found.append(known())
    assert len(set(found)) == len(found) == 9


PARTIALS = """
import functools


def chosen(documents, only):
    return documents.filter(lambda doc: doc["answer"] in only)


def ask(doc, end):
    return doc["question"] + end


prepare = functools.partial(chosen, only={"ONLY"})
text = functools.partial(ask, end="END")
shown = functools.partial(ask, end="SHOT")
"""
OF_PARTIALS = """
process_docs: !function helpers.prepare
doc_to_text: !function helpers.text
fewshot_config: {doc_to_text: !function helpers.shown}
"""


def test_a_function_with_some_arguments_given_counts_by_both_and_not_by_its_place_in_memory(
    task_files: Path, tmp_path: Path
) -> None:
    def ready() -> HarnessTask:
        (task,) = load_tasks(["own_choice"], str(place))
        return task

    place = tmp_path / "files"  # the functions lie outside of it: only the settings name them
    place.mkdir()
    helpers = tmp_path / "helpers.py"
    helpers.write_text(PARTIALS.replace('"ONLY"', "0, 1"))
    (tmp_path / "common.yaml").write_text(OF_PARTIALS)
    own = place / "own.yaml"
    own.write_text((task_files / "own.yaml").read_text() + "include: ../common.yaml\n")
    change(own, 'doc_to_text: "{{question}}"\n', "")
    first = ready()
    os.utime(helpers, (1, 1))  # read again, as in another process: the same functions elsewhere in memory
    again = ready()
    for name in ("process_docs", "doc_to_text"):
        assert first.parts[0].get_config(name) is not again.parts[0].get_config(name)
    assert first.fingerprint == again.fingerprint
    found = [first.fingerprint]
    for number, (old, new) in enumerate([("0, 1", "0, 1, 2"), ("END", "?"), ("SHOT", "!")], start=2):
        change(helpers, old, new)
        os.utime(helpers, (number, number))
        found.append(ready().fingerprint)
    assert len(set(found)) == 4


def test_a_set_reads_alike_in_every_process() -> None:
    # In a small table the numbers 0 and 8 share a place, so the one that came first stands first.
    assert str({0, 8}) != str({8, 0})
    assert harness_tasks._plain({0, 8}) == harness_tasks._plain({8, 0}) != harness_tasks._plain({0, 9})


def test_a_group_is_known_by_its_own_settings_too(task_files: Path, tmp_path: Path) -> None:
    def known(directory: Path) -> str:
        (task,) = load_tasks(["both"], str(directory))
        return task.fingerprint

    place = tmp_path / "files"
    place.mkdir()
    shutil.copy(task_files / "own.yaml", place)
    (place / "both.yaml").write_text("group: both\ninclude: ../together.yaml\n")
    together = tmp_path / "together.yaml"  # outside, so that only what the group is made of tells that it changed
    together.write_text("task: [own_choice]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n")
    found = [known(place)]
    assert known(Path(shutil.copytree(place, tmp_path / "moved"))) == found[0], "the place does not count"
    change(together, "true", "false")
    found.append(known(place))
    change(together, "[own_choice]", "[{group: inner, task: [own_choice], aggregate_metric_list: [{metric: acc}]}]")
    found.append(known(place))
    change(together, "{metric: acc}", "{metric: acc, weight_by_size: false}")
    found.append(known(place))
    assert len(set(found)) == 4


@pytest.fixture
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stand in for the harness's own files, whose index takes half a minute: `tmp_path/theirs`, with a group.

    Returns:
        For each index that is made whether it holds them.
    """
    made: list[bool] = []

    def manager(include_path: str, include_defaults: bool = True) -> TaskManager:
        made.append(include_defaults)
        places = [tmp_path / "theirs", include_path] if include_defaults else [include_path]
        return TaskManager(include_path=places, include_defaults=False)

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "suite.yaml").write_text("group: suite\ntask: [their_choice]\n")
    monkeypatch.setattr(harness_tasks, "TaskManager", manager)
    return made


MEMBERS: dict[str, tuple[Any, list[str], bool]] = {
    "own": (["own_choice"], ["own_choice"], False),
    "theirs": (["own_choice", "their_choice"], ["own_choice", "their_choice"], True),
    "their group": (["suite"], ["their_choice"], True),
    "with a setting": ([{"task": "their_choice", "description": "Think. "}], ["their_choice"], True),
    "by a group of one's own": (["inner"], ["their_choice"], True),
    "own groups alone": (["nested", {"group": "nested"}], ["own_choice"], False),
}


@pytest.mark.parametrize(("members", "tasks", "whole"), MEMBERS.values(), ids=list(MEMBERS))
def test_a_group_of_one_s_own_may_hold_tasks_of_the_harness(
    task_files: Path, tmp_path: Path, indexes: list[bool], members: Any, tasks: list[str], whole: bool
) -> None:
    place = tmp_path / "files"
    place.mkdir()
    text = (task_files / "own.yaml").read_text()
    (place / "own.yaml").write_text(text)
    (tmp_path / "theirs" / "choice.yaml").write_text(text.replace("own_choice", "their_choice"))
    (place / "both.yaml").write_text(f"group: both\ntask: {json.dumps(members)}\n")
    (place / "inner.yaml").write_text("group: inner\ntask: [their_choice]\n")
    (place / "nested.yaml").write_text("group: nested\ntask: [own_choice]\n")
    (task,) = load_tasks(["both"], str(place))
    assert sorted(part.task_name for part in task.parts[0].get_all_tasks()) == tasks
    assert all(len(part.eval_docs) == 3 for part in task.parts[0].get_all_tasks())
    assert indexes == ([False, True] if whole else [False])


def test_a_group_that_holds_itself_is_a_fault_of_its_file(task_files: Path) -> None:
    (task_files / "both.yaml").write_text("group: both\ntask: [own_choice, both]\n")
    with pytest.raises(ConfigError, match="can't load the task 'both': RecursionError") as caught:
        load_tasks(["both"], str(task_files))
    assert caught.value.where == f"lm_eval, {task_files / 'both.yaml'}"


def test_a_group_with_a_member_that_nobody_knows_says_which(task_files: Path, indexes: list[bool]) -> None:
    (task_files / "inner.yaml").write_text("group: inner\ntask: [own_choise]\n")
    (task_files / "both.yaml").write_text("group: both\ntask: [own_choice, inner]\n")
    with pytest.raises(ConfigError, match=r"the group 'inner' names 'own_choise', .*'own_choice'") as caught:
        load_tasks(["both"], str(task_files))
    assert caught.value.where == f"lm_eval, {task_files / 'inner.yaml'}"
    assert indexes == [False, True]  # it was looked for among the harness's own too


FAULTS = {
    "no YAML": ('"{{question}}"', "[question", r"own.yaml is no YAML: did not find expected", "own.yaml:8"),
    "include": (
        "task: own_choice",
        "task: own_choice\ninclude: no.yaml",
        r"own.yaml can't be read.*no.yaml",
        "own.yaml",
    ),
    "no data": ("rows.jsonl", "no.jsonl", r"can't load the task 'own_choice': .*no.jsonl", "own.yaml"),
    "split": ("test_split: test", "test_split: tset", "tset", "own.yaml"),
    "field": ("{{question}}", "{{qestion}}", "'qestion' is undefined", "own.yaml"),
    "setting": ("test_split", "tset_split", "tset_split", "own.yaml"),
    "code": ('"{{question}}"', "!function helpers.text", "ZeroDivisionError", "helpers.py:2"),
    "unsafe": ("test_split: test", "test_split: test\nunsafe_code: true", "runs what the model writes", "own.yaml"),
    "few": ("test_split: test", "test_split: test\nnum_fewshot: 9\nfewshot_split: test", "population", "own.yaml"),
}


@pytest.mark.parametrize(("old", "new", "what", "where"), FAULTS.values(), ids=list(FAULTS))
def test_a_faulty_task_is_found_with_its_place_before_a_model_is_loaded(
    task_files: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, what: str, where: str
) -> None:
    alone(monkeypatch)
    (task_files / "helpers.py").write_text("def text(doc):\n    return 1 / 0\n")
    change(task_files / "own.yaml", old, new)
    with pytest.raises(ConfigError, match=what) as caught:
        check_tasks(["own_choice"], str(task_files))
    assert caught.value.where == f"lm_eval, {task_files / where}"
    assert caught.value.fix
    change(task_files / "own.yaml", new, old)  # and mended in the same process it is read again
    assert check_tasks(["own_choice"], str(task_files))


@pytest.mark.parametrize(
    ("settings", "what"),
    [("num_beams: 4", "num_beams"), ("max_gen_toks: many", "many"), ("until: [1]", "until"), ("top_p: 7.0", "top_p")],
)
def test_generation_settings_that_the_sampler_can_t_follow_are_found_before_too(
    task_files: Path, settings: str, what: str
) -> None:
    own = task_files / "own.yaml"
    change(own, "multiple_choice", f"generate_until\ngeneration_kwargs: {{{settings}}}")
    change(own, 'doc_to_choice: "{{choices}}"\n', "")
    change(own, "metric: acc", "metric: exact_match")
    with pytest.raises(ConfigError, match=what) as caught:
        check_tasks(["own_choice"], str(task_files))
    assert caught.value.where == f"lm_eval, {own}"


def test_a_task_in_two_of_the_names_is_refused(task_files: Path) -> None:
    (task_files / "both.yaml").write_text("group: both\ntask: [own_choice]\n")
    with pytest.raises(ConfigError, match="'own_choice' is asked for twice: by 'both' and by 'own_choice'"):
        load_tasks(["both", "own_choice"], str(task_files))
    (task,) = load_tasks(["both"], str(task_files))
    assert {found.task for found in run_task(harness().responder, task)} >= {"own_choice"}


def test_a_task_that_fails_at_a_later_document_says_where(task_files: Path) -> None:
    (task_files / "helpers.py").write_text("def text(doc):\n    return doc['question'] * (1 // (1 - doc['answer']))\n")
    change(task_files / "own.yaml", '"{{question}}"', "!function helpers.text")
    (task,) = load_tasks(["own_choice"], str(task_files))
    with pytest.raises(ConfigError, match="task 'own_choice' fails: ZeroDivisionError") as caught:
        run_task(harness().responder, task)
    assert caught.value.where == f"lm_eval, {task_files / 'helpers.py'}:2"


def test_what_fails_in_burnish_s_own_code_is_not_blamed_on_the_task(
    task_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BurnishLM, pairs: object) -> None:
        raise RuntimeError("out of memory")

    (task,) = load_tasks(["own_choice"], str(task_files))
    monkeypatch.setattr(BurnishLM, "_score", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_task(harness().responder, task)
