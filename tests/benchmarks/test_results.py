"""Records on disk, and the page that is made of them."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

import growth
import layers
import ppo_section
import report
import train
import train_section
from common import results
from common.rounds import medians

ROOT = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    pictures = [name for name in ("peers.png", "growth.png") if (ROOT / "figures" / name).is_file()]
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == report.page(results.load_all(), pictures)


def test_what_is_not_measured_says_how() -> None:
    page = report.page([])
    assert page.count("Not yet measured") == len(report.TITLES) - 1
    assert "The GPU table is not yet measured" in page
    assert "## DPO beside TRL\n\nNot yet measured: `make bench STAGES=dpo`." in page


def test_a_record_comes_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    record = results.new_record("growth-startup", points=[])
    path = results.save("growth: Start, up", record, tmp_path)
    assert path.name == "growth-start-up.json"
    assert results.load_all(tmp_path) == [record]
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"growth-start-up\.json"):
        results.load_all(tmp_path)


def test_what_was_preloaded_has_a_record_and_a_title_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    plain = results.save("SFT, m", measured("sft"), tmp_path)
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/somewhere/libtcmalloc_minimal.so.4")
    record = measured("sft")
    other = results.save("SFT, m", record, tmp_path)
    assert [plain.name, other.name] == ["sft-m.json", "sft-m-libtcmalloc-minimal.so.4.json"]
    monkeypatch.delenv("LD_PRELOAD")  # a section says what its record was measured with, not what renders it
    text = train_section.render(record)
    assert text.startswith("## SFT beside TRL: m, d, float32, with libtcmalloc_minimal.so.4\n")
    assert "\n    LD_PRELOAD=libtcmalloc_minimal.so.4 c\n" in text
    assert "LD_PRELOAD" not in train_section.render(measured("sft"))


def test_names_of_data_hold_no_paths() -> None:
    assert results.data_label("/somewhere/else/pairs.jsonl.gz") == "pairs.jsonl.gz"
    assert results.data_label("starter/preferences") == "starter/preferences"


def test_a_table_has_columns_of_equal_width() -> None:
    assert results.table(["", "TRL"], [["seconds", "1.00"]]) == (
        "|         |  TRL |\n|---------|-----:|\n| seconds | 1.00 |"
    )


def measured(stage: str) -> dict[str, Any]:
    """A record of one round in which TRL takes 6 seconds and 4 GB, burnish 2 seconds and 1 GB."""
    setting = {"model": "m", "data": "d", "batch": 2, "steps": 1, "rank": 2, "micro_batch_tokens": 64}
    setting["size"] = {"linear": 100, "widths": 30, "hidden": 4, "vocabulary": 10}

    def side(name: str, seconds: float, memory: float, reference: float) -> dict[str, Any]:
        return {
            "seconds_per_step": seconds,
            "peak_rss_bytes": memory * 1e9,
            "reference_seconds": reference,
            "load": 0.1,
            "dtype": "float32",
            "threads": 2,
            "micro_batch": 2,
            "versions": {name: "1.0"},
            "work": {"trainable_parameters": 60},
            "proof": {"losses": [0.5], "grad_norm": 1.0, "values": {"0": [-1.0]}},
        }

    runs = {"trl": [side("trl", 6.0, 4.0, 0.0)], "burnish": [side("burnish", 2.0, 1.0, 0.0)]}
    if stage == "dpo":
        runs |= {"trl-beforehand": [side("trl", 4.0, 4.0, 2.0)], "burnish-beforehand": [side("burnish", 1.0, 1.0, 2.0)]}
    lengths = [[(5, [3, 2])], [(5, [3, 2])]]
    apart = {"loss": 0.0, "later_losses": 3e-6, "grad_norm": 2e-5, "values": 1e-6}
    proof = {"dtype": "float32", "apart": apart}
    rates = {"float32": 8400.0, "bfloat16": 1.0}
    more = {"rates": rates, "setting": setting, "lengths": lengths, "runs": runs, "commands": ["c"], "proof": proof}
    return results.new_record(stage, **more)


def test_a_stage_is_rendered_with_ratios_and_the_share_of_the_rate() -> None:
    text = train_section.render(measured("sft"))
    assert "| seconds per step | 6.00 | 2.00 | 3.00 |" in re.sub(" +", " ", text)
    # 8,400 useful operations (see test_flops) in 2 s at 8,400 a second.
    assert "| useful FLOPs / time / measured rate  |     17% |     50% |" in text
    assert "| 0.25 |" in re.sub(" +", " ", text)
    assert "range over the rounds" not in text
    assert " 1 round of all sides" in " ".join(text.split())
    said = " ".join(text.split())
    assert "the norm of the gradient before clipping (2e-05 of it); the losses of the steps after it (3e-06;" in said
    old = {**measured("sft"), "proof": {"dtype": "float32", "apart": [0.0, 1e-6]}}  # as before 27 November 2026
    assert "dtype, threads; in the first step the loss (largest difference 0)" in " ".join(
        train_section.render(old).split()
    )


def test_the_text_says_what_the_peers_memory_is_from() -> None:
    """TRL 1.16 checkpoints gradients unless told not to; the speed is of TRL without, and the memory beside it too."""
    record = measured("sft")
    assert "TRL's peak memory with it was not measured" in " ".join(train_section.render(record).split())
    record["runs"]["trl-checkpointed"] = [{**record["runs"]["trl"][0], "seconds_per_step": 8.0, "peak_rss_bytes": 2e9}]
    text = train_section.render(record)
    assert "which is TRL's default, except in the last table" in " ".join(text.split())
    table = text[text.index("| TRL with gradient checkpointing") :]
    assert "| 4.00 |" in re.sub(" +", " ", table)
    assert "| 0.50 |" in re.sub(" +", " ", table)
    assert [(fast, share) for _, fast, share in report.comparisons([record])] == [(3.0, 0.25), (4.0, 0.5)]


def test_of_several_micro_batches_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 fails for want of memory, 2 is faster than 4."""
    seconds = {"2": 3.0, "4": 5.0}

    def run(command: list[str]) -> dict[str, Any]:
        asked = command[command.index("--micro-batch") + 1]
        if asked not in seconds:
            raise SystemExit("killed")
        return {"seconds_per_step": seconds[asked]}

    monkeypatch.setattr("common.rounds.run", run)
    given = ["compare", "sft", "--work", "w", "--peer-python", "p", "--peer-micro-batch"]
    tried = train._try_micro_batches(train.make_parser().parse_args([*given, "4", "2", "8"]))
    assert list(tried.items()) == [("2", 3.0), ("4", 5.0)]
    said = " ".join(train_section.render({**measured("sft"), "tried_micro_batches": tried}).split())
    assert "(the fastest of those tried in one run each: 2 with 3.00 s a step, 4 with 5.00 s a step)" in said
    assert train._try_micro_batches(train.make_parser().parse_args([*given, "4"])) == {}
    with pytest.raises(SystemExit, match="none of these runs: 16, 8"):
        train._try_micro_batches(train.make_parser().parse_args([*given, "16", "8"]))


def test_the_peer_runs_once_more_with_checkpointing() -> None:
    given = ["compare", "sft", "--work", "w", "--peer-python", "p"]
    plain, more = (train.make_parser().parse_args([*given, *extra]) for extra in ([], ["--peer-checkpointing"]))
    assert list(train._sides(plain, "float32", "4")) == ["trl", "burnish"]
    sides = train._sides(more, "float32", "4")
    assert sides["trl-checkpointed"] == [*sides["trl"], "--checkpointing"]


def test_the_share_of_the_rate_is_given_with_and_without_what_burnish_leaves_out() -> None:
    record = measured("sft")
    assert "too high" in train_section.render(record), "a record of before it was counted"
    record["runs"]["burnish"][0]["head_kept"] = 0.0
    text = train_section.render(record)
    # 8,400 operations less 5 x 80 of the head's second product, in 2 s at 8,400 a second: 47.6 %.
    assert "| useful FLOPs / time / measured rate  |     17% |     50% |" in text
    assert "| ... of these, computed by burnish    |         |     48% |" in text
    assert "too high" not in text


def test_the_reference_beforehand_counts_with_its_share() -> None:
    text = train_section.render(measured("dpo"))
    # 2 s for the pairs of two steps: 1 s a step.
    assert "one epoch | 5.00 | 2.00 | 2.50 |" in re.sub(" +", " ", text)
    rows = report.comparisons([measured("dpo")])
    assert [(fast, share) for _, fast, share in rows] == [(3.0, 0.25), (4.0, 0.25)]


def test_ppo_is_rendered_with_the_share_of_the_rate_and_old_records_without() -> None:
    record = next(one for one in results.load_all() if one["stage"] == "ppo")
    record["setting"] = {name: value for name, value in record["setting"].items() if name not in ("size", "layers")}
    record = {name: value for name, value in record.items() if name not in ("apart", "rates")}
    assert "useful FLOPs" not in ppo_section.render(record)
    size = {"linear": 100, "widths": 30, "hidden": 4, "vocabulary": 10}
    record["setting"] |= {
        "size": size,
        "depth": 2,
        "layers": "all",
        "rank": 2,
        "response_tokens": 3,
        "update_epochs": 1,
    }
    flops = 1640 + 6720 + 240 + 12160 + 480  # see test_flops
    seconds = medians(record["runs"]["burnish"], "seconds_per_update")[0]
    rates = {record["runs"]["trl"][0]["dtype"]: 2 * flops / seconds}
    record |= {"lengths": [5], "rates": rates, "apart": {"policy": 1e-7, "reward": 2e-6}}
    for one in record["runs"]["burnish"]:
        one["head_kept"] = 0.0  # 240 of it
    text = ppo_section.render(record)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    [useful] = [row for row in cells if row[0].startswith("useful FLOPs")]
    [computed] = [row for row in cells if row[0].startswith("... of these")]
    assert (useful[2], computed[2]) == ("50%", "49%")
    assert "what the roles say (largest difference: policy 1e-07, reward 2e-06;" in " ".join(text.split())


def test_a_range_is_given_of_more_than_one_round() -> None:
    record = measured("sft")
    for side, seconds in (("trl", 9.0), ("burnish", 2.0)):
        record["runs"][side].append({**record["runs"][side][0], "seconds_per_step": seconds})
    text = train_section.render(record)
    assert "3.75 (3.00 to 4.50)" in text
    assert "ratio (range over the rounds)" in text
    assert " 2 rounds of all sides" in " ".join(text.split())


def test_the_page_says_what_of_the_examples_was_compared() -> None:
    record = measured("sft")
    assert "the number of tokens of every step, the examples of the first," in " ".join(
        train_section.render(record).split()
    )
    record["runs"]["trl"][0]["work"]["digests"] = ["a"]
    assert "checked: the token ids of every step," in " ".join(train_section.render(record).split())


def test_no_two_bars_have_the_same_name() -> None:
    """Two of the same stage, model and dtype are told apart by LoRA's layers, data, machine or date."""
    plain = measured("sft")
    others = [
        {**plain, "setting": {**plain["setting"], "layers": "last-10"}},
        {**plain, "setting": {**plain["setting"], "data": "e"}},
        {**plain, "machine": "another, 2 cores"},
        {**plain, "date": "2020-01-01"},
    ]
    for other in others:
        names = [name for name, _, _ in report.comparisons([plain, other])]
        assert len(set(names)) == 2, names
    assert [name for name, _, _ in report.comparisons([plain])] == ["SFT, m, float32"]
    published = [name for name, _, _ in report.comparisons(results.load_all())]
    assert len(set(published)) == len(published)


def test_a_second_run_on_other_work_has_a_file_of_its_own() -> None:
    assert growth.result_name("prompt", "x/gemma", "float32") == "growth-prompt-gemma-float32"
    assert growth.result_name("startup", "x/gemma", "float32") == "growth-startup"


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("prompt", "--model m --dtype bfloat16 --repeats 1 --values 128 256"),
        ("prompt", "--model m --dtype float32 --repeats 3"),
        ("sequence", "--model m --dtype float32 --values 256"),
        ("vocabulary", "--values 8192"),
        ("startup", ""),
    ],
)
def test_a_growth_is_written_down_under_the_command_that_gives_it(
    kind: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = dict.fromkeys(("shared", "apart", "kept", "checkpointed", "tiled", "whole"), 1.0)
    monkeypatch.setattr(growth, "run", lambda _: {"value": 1, "threads": 1, "torch": "2", **numbers})
    monkeypatch.setattr(growth, "_starts", lambda: {"help": 0.2, "python": 0.1})
    monkeypatch.setattr("sys.argv", ["growth.py", "measure", kind, *given.split(), "--results", str(tmp_path)])
    growth.main()
    [record] = results.load_all(tmp_path)
    assert record["commands"] == [f"python benchmarks/growth.py measure {kind} {given}".strip()]
    assert f"burnish {record['versions']['burnish']}" in growth.render(record)


def test_growth_is_rendered_and_drawn_from_its_points() -> None:
    points = [{"value": 128, "shared": 1.0, "apart": 1.5, "threads": 2, "torch": "2"}]
    shared = {"model": "m", "dtype": "float32", "versions": {"burnish": "0.1.0"}, "commands": ["c"]}
    record = results.new_record("growth-prompt", points=points, **shared)
    assert "| 128                  |          1.00 |             1.50 |" in growth.render(record)
    [panel] = report.panels([record])
    assert panel["lines"] == {"prompt shared": [(128, 1.0)], "a row a response": [(128, 1.5)]}
    startup = [{"help": 0.25, "python": 0.02}]
    record = results.new_record("growth-startup", points=startup, **shared)
    assert "0.25" in growth.render(record)
    assert json.loads(json.dumps(record)) == record


def test_layers_are_held_against_the_first_choice() -> None:
    versions = {"burnish": "0.1.0", "torch": "2", "transformers": "5"}
    shared = {"loss_before": 3.0, "steps": 32, "trainable": 1000, "threads": 1, "versions": versions}
    points = [
        {"layers": "all", "loss": 1.5, "seconds": 90.0, "peak_rss_bytes": 2e9, **shared},
        {"layers": "last-10", "loss": 1.625, "seconds": 36.0, "peak_rss_bytes": 1e9, **shared},
    ]
    record = results.new_record(
        "layers", model="m", dtype="float32", setting=layers.SETTING, commands=["c"], points=points
    )
    text = layers.render(record)
    row = next(line for line in text.splitlines() if line.startswith("| last-10"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["last-10", "1,000", "1.625", "36", "2.50", "1.00"]
    assert text in report.page([record])


def test_choices_of_layers_fit_the_depth() -> None:
    assert layers.choices(30) == ["last-20", "last-10", "last-5"]
    assert layers.choices(18) == ["last-12", "last-6", "last-3"]
    assert layers.choices(2) == ["last-1"]


def test_the_layers_of_a_shallow_model_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str]) -> dict[str, Any]:
        asked.append(command[-1])
        versions = {"burnish": "0.1.0", "torch": "2", "transformers": "5"}
        numbers = {"loss_before": 3.0, "loss": 1.0, "seconds": 1.0, "steps": 1, "trainable": 1, "threads": 1}
        return {"layers": asked[-1], "depth": 18, "peak_rss_bytes": 1e9, "versions": versions, **numbers}

    monkeypatch.setattr(layers, "run", run)
    layers.measure(argparse.Namespace(model="m", dtype="float32", layers=None, results=tmp_path))
    assert asked == ["all", "last-12", "last-6", "last-3"]
