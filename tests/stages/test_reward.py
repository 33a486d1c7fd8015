"""The reward stage on tiny models: where the score is read, what trains, what is left on disk, and who can load it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from burnish.data.chat import encode_example, encode_examples, install_template, resolve_template
from burnish.data.groups import PromptGroup, Response, collate
from burnish.data.sources import load_examples
from burnish.errors import AdapterError, ConfigError, DataError, ModelError, OutputDirError, TemplateError
from burnish.files import write_json
from burnish.models.adapters import load_adapter
from burnish.models.heads import Scorer, ensemble_score, new_head
from burnish.models.loading import load_model
from burnish.models.reward import load_reward_model, write_classifier
from burnish.models.roles import Backbone
from burnish.stages.config import RewardConfig, SFTConfig
from burnish.stages.reward import train_reward
from burnish.stages.reward_evidence import held_out_evaluation, say_who_may_be_a_coin
from burnish.stages.score import score_data, score_groups
from burnish.stages.setup import TrainingData
from burnish.stages.sft import train_sft
from tests.models.families import tiny, tiny_tokenizer
from tests.stages.toy import make_pairs, make_sft_data, settings

EOS = 2


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def config(tmp_path: Path, **more: Any) -> RewardConfig:
    return RewardConfig.parse(settings(tmp_path, "dpo", **{"validation": 0.2, **more}))


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_the_score_is_read_at_the_last_token_of_each_response(family: str) -> None:
    """Shared prompt, uneven lengths, EOS at the end: as from each response alone, unpadded, with the stock model."""
    model = tiny(family, dtype=torch.float64)
    groups = [
        PromptGroup((5, 6, 7), (Response.full((9, 11, 12, EOS)), Response.full((8, EOS)))),
        PromptGroup((4,), (Response.full((EOS,)), Response.full((3, 10, 14, 15, 16, EOS)))),
    ]
    expected, head = [], torch.linspace(-1.0, 1.0, model.config.hidden_size, dtype=torch.float64)
    with torch.no_grad():
        for group in groups:
            for response in group.responses:
                ids = torch.tensor([group.prompt + response.ids])
                expected.append(float(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1] @ head))
    backbone = Backbone(model)
    scorer = Scorer(backbone.role(), torch.nn.Parameter(head[None]))
    assert scorer.scores(collate(groups, layout=backbone.layout)).tolist() == pytest.approx(
        expected, abs=1e-5
    )  # its norms are float32


def test_it_learns_and_loads_again_with_the_same_scores(tmp_path: Path) -> None:
    result = train_reward(config(tmp_path, epochs=6, lora={"rank": 2}))
    rows = [line for line in lines(tmp_path / "run") if "validation/loss" in line]
    assert rows[-1]["validation/loss"] < 0.7 * rows[0]["validation/loss"]
    assert result.metrics["accuracy"] == 1.0
    first = load_reward_model(result.model, dtype=torch.float32)
    batch = collate([PromptGroup((5, 6), (Response.full((9, EOS)), Response.full((11, 12, 13, EOS))))])
    scores = first.scorers[0].scores(batch).detach()
    assert first.judge is None
    assert float((scores[0] - scores[1]).abs()) > 1e-3
    assert torch.equal(scores, load_reward_model(result.model, dtype=torch.float32).scorers[0].scores(batch))


@pytest.mark.parametrize("tuning", ["full", "head"])
def test_a_whole_reward_model_gives_the_same_scores_in_transformers(tuning: str, tmp_path: Path) -> None:
    """In a padded batch and alone; the tokenizer's padding must not be the EOS at which the score is read."""
    result = train_reward(config(tmp_path, tuning=tuning, epochs=2, lora={}))
    model = load_reward_model(result.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    classifier = AutoModelForSequenceClassification.from_pretrained(result.model, num_labels=1, dtype=torch.float32)
    texts = ["paris france yes<eos>", "one<eos>"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        stock = classifier.eval()(**encoded).logits[:, 0]
    groups = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == EOS
        groups.append(PromptGroup(tuple(ids[:1]), (Response.full(ids[1:]),)))
    ours = model.scorers[0].scores(collate(groups)).detach()
    assert ours.tolist() == pytest.approx(stock.tolist(), abs=1e-4)
    assert abs(float(ours[0] - ours[1])) > 1e-3


def test_a_whole_reward_model_in_bfloat16_keeps_the_digits_of_its_head(tmp_path: Path) -> None:
    """The head trains in float32; 1 + 2^-20 is 1 in bfloat16."""
    tokenizer = tiny_tokenizer()
    backbone = Backbone(tiny("llama", vocab_size=len(tokenizer)))
    head = torch.full((1, backbone.config.hidden_size), 1.0 + 2.0**-20)
    scorer = Scorer(backbone.role(), torch.nn.Parameter(head.clone()))
    install_template(resolve_template(tokenizer, "auto"), tokenizer)
    write_classifier(scorer, tokenizer, tmp_path, dtype=torch.bfloat16)
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["score.weight"], head)
    assert {tensor.dtype for name, tensor in written.items() if name != "score.weight"} == {torch.bfloat16}
    write_json(tmp_path / "reward.json", {"members": ["."], "holdout": None})
    assert torch.equal(load_reward_model(tmp_path, dtype=torch.bfloat16).scorers[0].head, head)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(stock.score.weight.detach(), head)


@pytest.mark.parametrize(("padding", "is_said"), [("<pad>", False), ("<eos>", True)])
def test_an_adapter_with_a_head_gives_the_same_scores_in_peft(padding: str, is_said: bool, tmp_path: Path) -> None:
    """With the line that the guide gives, in a padded batch and alone. Without it, a base whose padding is EOS has the
    scores of the rows without their EOS."""
    from peft import AutoPeftModelForSequenceClassification, PeftModel

    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = padding
    base = tiny("llama", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    said = Console(file=io.StringIO(), width=500)
    result = train_reward(config(tmp_path, epochs=2), console=said)
    assert ("pad_token_id = 1, or" in said.file.getvalue()) == is_said  # type: ignore[attr-defined]

    ids = [[1, 9, 11, 12, EOS], [1, 9, EOS]]
    ours = load_reward_model(result.model, dtype=torch.float32).scorers[0]
    groups = [PromptGroup(tuple(row[:2]), (Response.full(row[2:]), Response.full(row[2:-1] or [9]))) for row in ids]
    expected = ours.scores(collate(groups)).detach()
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    stock = AutoPeftModelForSequenceClassification.from_pretrained(result.model, num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        untold = float(stock.eval()(input_ids=torch.tensor(ids[:1])).logits[0, 0])
        stock.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        alone = float(stock(input_ids=torch.tensor(ids[:1])).logits[0, 0])
        padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="right")
        together = stock(**padded).logits[:, 0]
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1, dtype=torch.float32)
        plain.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        onto = PeftModel.from_pretrained(plain, result.model).eval()(**padded).logits[:, 0]
    assert torch.equal(onto, together), "from the base's own directory, as the guide has it for catalog models"
    assert [alone, *together.tolist()] == pytest.approx([float(expected[0]), *expected[0::2].tolist()], abs=1e-5)
    assert untold == pytest.approx(float(expected[1 if is_said else 0]), abs=1e-5)
    assert abs(float(expected[0] - expected[1])) > 1e-3


def test_head_tuning_leaves_the_backbone_alone_and_computes_features_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Scorer.features

    def counted(self: Scorer, batch: Any, **options: Any) -> torch.Tensor:
        calls.append(batch.n_responses)
        return original(self, batch, **options)

    monkeypatch.setattr(Scorer, "features", counted)
    result = train_reward(config(tmp_path, tuning="head", epochs=5, lora={}))
    assert sum(calls) == 2 * 20, "each of the 40 responses once, whatever the number of epochs"
    assert result.metrics["accuracy"] >= 0.5
    written, base = load_file(result.model / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    shared = written.keys() & base.keys()
    assert len(shared) == len(written) - 1
    assert all(torch.equal(written[name], base[name].to(written[name].dtype)) for name in shared)


def test_it_starts_from_an_adapter_and_leaves_it_alone(tmp_path: Path) -> None:
    sft = train_sft(SFTConfig.parse(settings(tmp_path, out=str(tmp_path / "sft"), lora={"rank": 2})))
    before = load_file(sft.model / "adapter_model.safetensors")
    result = train_reward(config(tmp_path, model=str(sft.model), lora={}))
    after = load_file(sft.model / "adapter_model.safetensors")
    reward = load_file(result.model / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert reward.keys() == before.keys() | {"base_model.model.score.weight"}
    assert any(not torch.equal(before[name], reward[name]) for name in before)


def test_the_members_of_an_ensemble_see_other_pairs_and_do_not_touch_each_other(tmp_path: Path) -> None:
    said = io.StringIO()
    settings_of = config(tmp_path, members=3, holdout=True, epochs=3, lora={"rank": 2})
    result = train_reward(settings_of, console=Console(file=said, width=200))
    told = json.loads((result.model / "evaluation.json").read_text())["members"]
    assert [(m["name"], m["held_back"], m["accuracy"]["n"]) for m in told][1:] == [
        ("member-2", False, 4),
        ("member-3", True, 4),
    ]
    assert "member-3, held back as the judge," in said.getvalue()
    model = load_reward_model(result.model, dtype=torch.float32)
    assert len(model.scorers) == 2
    assert model.judge is not None
    assert "ensemble_accuracy" in result.metrics
    batch = collate([PromptGroup((5, 6), (Response.full((9, EOS)), Response.full((11, 12, 13, EOS))))])
    scores = torch.stack([scorer.scores(batch) for scorer in (*model.scorers, model.judge)])
    assert scores.std(0).min() > 1e-4, "members differ"
    for number in (1, 2, 3):
        assert (result.model / f"member-{number}" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("max_grad_norm", [1e9, 0.05])
def test_a_member_learns_as_it_would_alone(max_grad_norm: float, tmp_path: Path) -> None:
    """The gradient of one member must not reach another, nor scale it down where it is clipped: member 1 of two, on
    the same draw, is a single one's twin."""
    from burnish.stages import reward as module

    values = {"members": 2, "max_grad_norm": max_grad_norm, "lora": {"rank": 2}}
    together = train_reward(config(tmp_path, out=str(tmp_path / "two"), **values))
    first = module.make_members

    def only_first(ground: Any, settings_of: RewardConfig, n: int) -> list[Any]:
        return first(ground, settings_of, n)[:1]

    module.make_members = only_first
    try:
        alone = train_reward(config(tmp_path, out=str(tmp_path / "one"), **values))
    finally:
        module.make_members = first
    a = load_file(together.model / "member-1" / "adapter_model.safetensors")
    b = load_file(alone.model / "adapter_model.safetensors")
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-5), name
    one, two = ([line for line in lines(tmp_path / name) if "grad_norm" in line] for name in ("one", "two"))
    norms, other = [line["grad_norm"] for line in one], [line["grad_norm/member-2"] for line in two]
    assert norms == pytest.approx([line["grad_norm"] for line in two], rel=1e-3)
    assert other != pytest.approx(norms, rel=0.1)
    assert all(norm > max_grad_norm for norm in norms) == (max_grad_norm < 1.0), "clipped in every step, or in none"


def test_resume_is_bit_exact_inside_an_ensemble(tmp_path: Path) -> None:
    from burnish.stages import reward as module

    whole = train_reward(config(tmp_path, members=2, out=str(tmp_path / "whole"), epochs=1))
    original, count = module._member_step, [0]

    def dies(*args: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == 6:  # in the middle of the third step, between its members
            raise KeyboardInterrupt
        original(*args, **options)

    values = {"members": 2, "out": str(tmp_path / "cut"), "epochs": 1, "save_every": 1}
    module._member_step = dies
    try:
        with pytest.raises(KeyboardInterrupt):
            train_reward(config(tmp_path, **values))
    finally:
        module._member_step = original
    cut = train_reward(config(tmp_path, **values))
    assert cut.resumed_from == 2
    for number in (1, 2):
        name = f"member-{number}/adapter_model.safetensors"
        a, b = load_file(whole.model / name), load_file(cut.model / name)
        assert all(torch.equal(a[key], b[key]) for key in a)


def with_margins(path: Path, margin: Callable[[int], float], *, name: str = "margin") -> str:
    """The pairs of `make_pairs`, each with the margin of its line."""
    rows = [json.loads(line) for line in make_pairs(path).read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, name: margin(i)}) + "\n" for i, row in enumerate(rows, start=1)))
    return str(path)


@pytest.mark.parametrize("tuning", ["lora", "head"])
def test_margins_of_the_rows_by_hand(tuning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of 0 cost log(1 + e^m): log 4 at m = log 3, log 2 at m = 0; in validation log 8 at log 7, log 2 at 0."""
    from burnish.stages import reward as module

    original = module.new_head
    monkeypatch.setattr(module, "new_head", lambda *a, **o: torch.nn.Parameter(torch.zeros_like(original(*a, **o))))
    data = with_margins(tmp_path / "pairs.jsonl", lambda line: math.log(3.0) if line <= 5 else 0.0, name="gap")
    held_out = with_margins(tmp_path / "held.jsonl", lambda line: 0.0 if line % 2 else math.log(7.0), name="gap")
    values = {"data": data, "validation": held_out, "map": {"gap": "margin"}, "margin_column": "margin"}
    values |= {"batch_size": 20, "max_steps": 1, "learning_rate": 1e-12, "tuning": tuning, "lora": {}}
    train_reward(config(tmp_path, **values))
    rows = lines(tmp_path / "run")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses == pytest.approx([(5 * math.log(4.0) + 15 * math.log(2.0)) / 20], abs=1e-6)
    validation = [row["validation/loss"] for row in rows if "validation/loss" in row]
    assert validation[0] == pytest.approx((10 * math.log(8.0) + 10 * math.log(2.0)) / 20, abs=1e-6)


def test_a_margin_stays_with_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through split, numbering, bootstrap samples and the sorting of micro-batches: line by line from the file.

    Line n has the margin n / 10, and a response the score sum(ids) / 100.
    """
    from burnish.stages import reward as module
    from burnish.stages import score as score_module

    data = with_margins(tmp_path / "pairs.jsonl", lambda line: line / 10)
    settings_of = config(
        tmp_path, data=data, margin_column="margin", members=2, centring=0.0, epochs=1, micro_batch_tokens=48
    )

    def scores(scorer: Scorer, batch: Any, *, dropout: bool = False) -> torch.Tensor:
        found = [
            ids[segments == number].sum() / 100
            for ids, segments in zip(batch.input_ids, batch.segment_ids, strict=True)
            for number in (1, 2)
        ]
        return torch.stack(found) + 0.0 * scorer.head.sum()

    def loss_of(pair: PromptGroup) -> float:
        chosen, rejected = (sum(response.ids) / 100 for response in pair.responses)
        line = int(pair.origin.rpartition(":")[2])
        return math.log1p(math.exp(-(chosen - rejected - line / 10)))

    trained: list[list[PromptGroup]] = []
    held_out: list[PromptGroup] = []
    step, validate = module._member_step, module.validate_reward

    def noted_step(loop_step: Any, member: Any, examples: Any, *rest: Any, **options: Any) -> None:
        trained.append(list(examples))
        step(loop_step, member, examples, *rest, **options)

    def noted_validate(members: Any, groups: Any, *rest: Any) -> dict[str, float]:
        held_out[:] = groups
        return validate(members, groups, *rest)

    monkeypatch.setattr(Scorer, "scores", scores)
    monkeypatch.setattr(
        score_module, "scores_of", lambda scorers, batch: torch.stack([scores(s, batch) for s in scorers])
    )
    monkeypatch.setattr(module, "_member_step", noted_step)
    monkeypatch.setattr(module, "validate_reward", noted_validate)
    train_reward(settings_of)
    rows = lines(tmp_path / "run")
    losses = [row["loss"] for row in rows if "loss" in row]
    expected = [
        (sum(map(loss_of, one)) / len(one) + sum(map(loss_of, other)) / len(other)) / 2
        for one, other in zip(trained[0::2], trained[1::2], strict=True)
    ]
    assert len(losses) == 4
    assert losses == pytest.approx(expected, abs=1e-5)
    validation = [row["validation/loss"] for row in rows if "validation/loss" in row]
    assert validation[0] == pytest.approx(sum(map(loss_of, held_out)) / len(held_out), abs=1e-5)
    assert len(held_out) == 4


def test_a_changed_margin_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noticed by the file's content, and where that isn't known (the hub's) by what was read."""
    from burnish.stages import setup

    data = with_margins(tmp_path / "pairs.jsonl", lambda line: line / 10)
    values = {"data": data, "margin_column": "margin", "max_steps": 1}
    train_reward(config(tmp_path, **values))
    with_margins(tmp_path / "pairs.jsonl", lambda line: line / 10 + (line == 7))
    with pytest.raises(OutputDirError, match="the data has changed since the run"):
        train_reward(config(tmp_path, **values))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "finished": False}))
    monkeypatch.setattr(setup, "data_fingerprint", lambda data: record["inputs"]["data"])
    with pytest.raises(OutputDirError, match="the data has changed since this run"):
        train_reward(config(tmp_path, **values))


def test_a_pair_without_its_margin_stops_the_stage_or_is_left_out(tmp_path: Path) -> None:
    data = Path(with_margins(tmp_path / "pairs.jsonl", lambda line: 1.0))
    data.write_text(data.read_text().replace('"margin": 1.0', '"margin": null', 1))
    values = {"data": str(data), "margin_column": "margin", "max_steps": 1, "validation": 0.0}
    with pytest.raises(DataError, match="is null") as caught:
        train_reward(config(tmp_path, **values))
    assert caught.value.where == f"{data}:1, field 'margin'"
    train_reward(config(tmp_path, **values, on_bad_row="skip"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (record["bad_rows"], record["training"]) == (1, 19)


def test_a_fresh_head_scores_by_the_unit() -> None:
    backbone = Backbone(tiny("llama"))
    width = backbone.config.hidden_size
    heads = torch.cat([new_head(backbone, seed=seed).detach() for seed in range(200)])
    assert float(heads.std()) == pytest.approx(1.0 / math.sqrt(width + 1), rel=0.05)
    assert torch.equal(new_head(backbone, seed=3), new_head(backbone, seed=3))


def test_ensemble_rules_by_hand() -> None:
    scores = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    assert ensemble_score(scores).tolist() == [2.0, 4.0]
    assert ensemble_score(scores, "worst").tolist() == [1.0, 4.0]
    assert ensemble_score(scores, "mean-std", spread_penalty=0.5).tolist() == [1.5, 4.0]
    with pytest.raises(ValueError, match="unknown ensemble rule"):
        ensemble_score(scores, "median")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"members": 2, "tuning": "head"}, "need tuning: lora"),
        ({"holdout": True}, "members: 2"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"margin": 0.5, "margin_column": "gap"}, "leave margin away"),
        (
            {"tuning": "head", "lora": {"rank": 4}},
            "tuning: head there is no adapter",
        ),
        ({"tuning": "full", "lora": {"rank": 4}}, "lora belongs to tuning: lora"),
        ({"tuning": "head", "lora": {}, "gradient_checkpointing": True}, "trains the head alone"),
        ({"validation": 0.0, "eval_every": 2}, "nothing to evaluate"),
    ],
)
def test_settings_of_nonsense(more: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        config(tmp_path, **more)


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    adapter = train_reward(config(tmp_path, max_steps=1)).model
    with pytest.raises(AdapterError, match="this is a reward model"):
        load_adapter(load_model(str(adapter), dtype=torch.float32).model, adapter, "policy")
    whole = train_reward(config(tmp_path, max_steps=1, tuning="full", lora={}, out=str(tmp_path / "full"))).model
    with pytest.raises(ModelError, match="gives scores and writes no text"):
        load_model(str(whole), dtype=torch.float32)
    with pytest.raises(ModelError, match="not a reward model"):
        load_reward_model(tmp_path / "base", dtype=torch.float32)


def test_the_evaluation_of_the_held_out_pairs_stands_beside_the_model(tmp_path: Path) -> None:
    result = train_reward(config(tmp_path, epochs=6, lora={"rank": 2}))
    found = json.loads((result.model / "evaluation.json").read_text())
    assert found["n"] == 4
    assert found["accuracy"]["value"] == result.metrics["accuracy"] == 1.0
    assert found["accuracy"]["interval"]["low"] < 0.6, "four pairs prove little"
    assert found["length_baseline"]["direction"] in ("longer", "shorter")
    assert {signal["name"] for signal in found["signals"]} == {"length", "hedging", "confidence", "markup"}


def test_each_member_is_evaluated_and_a_judge_that_may_be_a_coin_is_named() -> None:
    """Wilson's interval by hand: 12 of 12 is (12 / (12 + 1.96^2), 1), and 6 of 12 is 1/2 -+ 1.96 / (2 sqrt(15.84))."""
    tokenizer = tiny_tokenizer()
    ground: Any = SimpleNamespace(tokenizer=tokenizer, stop_ids=(EOS,))
    pairs = [PromptGroup((5,), (Response.full((9, EOS)), Response.full((8, EOS))), index=i) for i in range(12)]
    scores = torch.zeros(3, 12, 2, dtype=torch.float64)
    scores[0, :, 0] = 1.0
    scores[1, :11, 0] = 1.0  # and a tie
    scores[2, :6, 0], scores[2, 6:, 1] = 1.0, 9.0
    settings_of = RewardConfig(model="m", data="d", out=Path("o"), members=3, holdout=True)
    found = held_out_evaluation(ground, TrainingData(pairs, pairs), scores, settings_of)
    assert found.evaluation.accuracy.passed == 12, "of the members that are used"
    told = found.as_dict()["members"]
    assert [(m["name"], m["held_back"], m["accuracy"]["passed"]) for m in told] == [
        ("member-1", False, 12),
        ("member-2", False, 11),
        ("member-3", True, 6),
    ]
    low = [m["accuracy"]["interval"]["low"] for m in told]
    assert low[0] == pytest.approx(12 / 15.8415, abs=1e-4)
    assert low[2] == pytest.approx(0.5 - 1.96 / (2 * math.sqrt(15.8415)), abs=1e-4)
    said = io.StringIO()
    say_who_may_be_a_coin(found, Console(file=said, width=200))
    assert said.getvalue().splitlines() == [
        "member-3, held back as the judge, can't be told from a coin: right on 6 of 12 held-out pairs (25 to 75 %)"
    ]


def test_without_held_out_pairs_it_says_that_nothing_was_evaluated(tmp_path: Path) -> None:
    said = io.StringIO()
    result = train_reward(config(tmp_path, validation=0.0, max_steps=1), console=Console(file=said, width=200))
    assert "no pairs are held out (validation): what this reward model is worth is not known" in said.getvalue()
    assert not (result.model / "evaluation.json").exists()


def test_scores_of_a_file_are_those_of_the_model(tmp_path: Path) -> None:
    result = train_reward(config(tmp_path, members=3, holdout=True, max_steps=4, lora={"rank": 2}))
    out = tmp_path / "scores.jsonl"
    scored = score_data(str(tmp_path / "run"), str(tmp_path / "dpo.jsonl"), out=out, dtype="float32")
    assert scored.kind == "preference"
    assert scored.members.shape == (3, 20, 2)
    assert torch.allclose(scored.scores, scored.members[:2].mean(0), atol=1e-6), "the judge has no part in the score"
    model = load_reward_model(result.model, dtype=torch.float32)
    example = load_examples(str(tmp_path / "dpo.jsonl"), kind="preference").examples[3]
    batch = collate([encode_example(model.template, model.tokenizer, example)])
    alone = torch.stack([scorer.scores(batch) for scorer in model.scorers]).mean(0)
    assert scored.scores[3].tolist() == pytest.approx(alone.tolist(), abs=1e-5)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[3]["origin"].endswith("dpo.jsonl:4")
    assert rows[3]["chosen"] == pytest.approx(float(scored.scores[3, 0]))
    one = score_data(str(result.model / "member-2"), str(tmp_path / "dpo.jsonl"), dtype="float32")
    assert torch.allclose(one.scores, scored.members[1], atol=1e-6), "a member is a reward model of its own"
    with pytest.raises(ModelError, match="not a reward model"):
        load_reward_model(tmp_path / "run" / "checkpoints", dtype=torch.float32)
    worst = score_data(str(tmp_path / "run"), str(tmp_path / "dpo.jsonl"), rule="worst", dtype="float32")
    assert torch.allclose(worst.scores, scored.members[:2].amin(0), atol=1e-5)


def test_scoring_leaves_out_what_is_too_long_and_counts_it(tmp_path: Path) -> None:
    result = train_reward(config(tmp_path, max_steps=1))
    rows = [{"question": "one?", "reply": answer} for answer in ("paris.", "paris " * 200, "france.")]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more: dict[str, Any] = {"columns": {"question": "prompt", "reply": "completion"}, "dtype": "float32"}
    for vain, match in (({"spread_penalty": 2.0}, "takes no spread off"), ({"rule": "worst"}, "would change nothing")):
        with pytest.raises(ConfigError, match=match):
            score_data(str(result.model), str(data), **more, **vain)
    with pytest.raises(DataError, match="1 of 3 examples are longer") as caught:
        score_data(str(result.model), str(data), **more)
    assert "--too-long skip" in str(caught.value.fix)
    scored = score_data(str(result.model), str(data), too_long="skip", **more)
    assert (scored.too_long, [origin[-2:] for origin in scored.origins]) == (1, [":1", ":3"])
    data.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(DataError, match="none of the 1 examples can be scored"):
        score_data(str(result.model), str(data), too_long="skip", **more)


def test_members_share_each_pass_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores as one member after the other, from passes over the rows of all; never more tokens at once."""
    result = train_reward(config(tmp_path, members=3, holdout=True, max_steps=4, lora={"rank": 2}))
    model = load_reward_model(result.model, dtype=torch.float32)
    assert model.judge is not None
    scorers = [*model.scorers, model.judge]
    examples = load_examples(str(tmp_path / "dpo.jsonl"), kind="preference").examples
    groups = encode_examples(model.template, model.tokenizer, examples)
    with torch.no_grad():
        expected = torch.stack(
            [torch.stack([scorer.scores(collate([group])) for group in groups]) for scorer in scorers]
        )
    sizes: list[tuple[int, int]] = []
    original = Backbone.hidden_states

    def noted(self: Backbone, batch: Any, *rest: Any) -> torch.Tensor:
        sizes.append(tuple(batch.input_ids.shape))
        return original(self, batch, *rest)

    monkeypatch.setattr(Backbone, "hidden_states", noted)
    scores = score_groups(scorers, groups, tokens=240)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert (scores - scores.mean(0)).abs().min() > 1e-5, "members differ, so a mixed-up order would show"
    assert sum(rows for rows, _ in sizes) == 3 * 20
    assert all(rows % 3 == 0 and rows * width <= 240 for rows, width in sizes)
    assert len(sizes) < 20


def test_single_responses_are_scored_too_and_bad_input_is_told(tmp_path: Path) -> None:
    train_reward(config(tmp_path, max_steps=2))
    single = make_sft_data(tmp_path / "single.jsonl", 5)
    scored = score_data(str(tmp_path / "run"), str(single), dtype="float32")
    assert scored.kind == "sft"
    assert scored.scores.shape == (5, 1)
    assert scored.accuracy is None
    refused = (
        json.dumps({"prompt": "x?", "completion": "a <eos> b"}) + "\n"
    )  # by the template: its stop token in a text
    (tmp_path / "refused.jsonl").write_text(refused + single.read_text())
    with pytest.raises(TemplateError, match="holds the stop token"):
        score_data(str(tmp_path / "run"), str(tmp_path / "refused.jsonl"), dtype="float32")
    told = Console(file=io.StringIO(), width=200)
    kept = score_data(
        str(tmp_path / "run"), str(tmp_path / "refused.jsonl"), dtype="float32", on_bad_row="skip", console=told
    )
    assert torch.equal(kept.scores, scored.scores)
    assert kept.origins[0].endswith("refused.jsonl:2")
    assert "1 row left out:" in told.file.getvalue()  # type: ignore[attr-defined]
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(OutputDirError, match="exists"):
        score_data(str(tmp_path / "run"), str(single), out=tmp_path / "there.jsonl")
    with pytest.raises(ConfigError, match="unknown rule"):
        score_data(str(tmp_path / "run"), str(single), rule="median")
    with pytest.raises(ModelError, match="not a reward model"):
        score_data(str(tmp_path / "base"), str(single))
    pairs = (tmp_path / "dpo.jsonl").read_text()
    (tmp_path / "bad.jsonl").write_text(pairs + '{"prompt": "x", "chosen": "y"}\n')
    with pytest.raises(DataError, match="rejected"):
        score_data(str(tmp_path / "run"), str(tmp_path / "bad.jsonl"))
