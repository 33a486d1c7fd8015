"""The harness's view of a model, against forwards of transformers' own code and the harness's own arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'burnish[lm-eval]')")

from lm_eval.tasks import TaskManager

from burnish.errors import ConfigError, ModelError
from burnish.evaluation import lm_harness
from burnish.evaluation.lm_harness import BurnishLM, run_tasks
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
    (found,) = run_tasks(responder, ["own_choice"], str(task_files))
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
    monkeypatch.setattr(lm_harness, "TaskManager", lambda **given: TaskManager(**{**given, "include_defaults": False}))
    with pytest.raises(ConfigError, match=r"no task 'own_chioce' \(did you mean 'own_choice'\?\)") as caught:
        run_tasks(harness().responder, ["own_chioce"], str(task_files))
    assert caught.value.where == "lm_eval"
    with pytest.raises(ConfigError, match="no task 'own_chioce'"):  # and before a report loads its first model
        check_tasks(["own_chioce"], str(task_files))
    check_tasks(["own_choice"], str(task_files))
