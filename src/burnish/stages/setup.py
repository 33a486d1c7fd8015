"""What every training stage does before its first step: open the run, load the model, read and check the data.

The order is from cheap to dear: settings, then the output directory, then the data files, then the model.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from burnish.data.batching import split
from burnish.data.chat import encode_usable, install_template, resolve_template, stop_ids
from burnish.data.groups import PromptGroup
from burnish.data.preflight import preflight
from burnish.data.show import show_report
from burnish.data.sources import Kind, LoadedData, left_out, load_examples
from burnish.data.templates import ChatTemplate
from burnish.errors import ConfigError, DataError, OutputDirError
from burnish.files import atomic_directory
from burnish.models.adapters import load_adapter, save_adapter
from burnish.models.config import LoRAConfig
from burnish.models.export import merge, write_model
from burnish.models.fingerprint import data_fingerprint, directory_fingerprint
from burnish.models.layers import decoder_layers, first_trained_layer, layer_number
from burnish.models.loading import ModelSource, load_model, resolve_model
from burnish.models.lora import (
    adapter_parameters,
    backbone_parameters,
    copy_adapter,
    count_trainable_params,
    excess_rank,
    inject,
    lora_layers,
)
from burnish.models.placement import DTYPES, pick_device, pick_dtype
from burnish.models.roles import Backbone, Role, freeze
from burnish.stages.config import PolicyConfig, TrainConfig
from burnish.stages.monitor import read_suite, watched_inputs
from burnish.stages.run import Run, model_of, open_run
from burnish.stages.trackers import check_trackers

POLICY = "policy"
START = "start"
MERGE_PROBE = "The quick brown fox jumps over the lazy dog. 1, 2, 3: What comes next?"


@dataclass(frozen=True, slots=True)
class Ground:
    """What a stage stands on.

    Attributes:
        backbone: the model, without adapters but for the one that the stage starts from.
        start: that adapter's name in the model, or none for a plain model.
        tokenizer: with the template installed.
        template: how conversations become text.
        stop_ids: the tokens that end a turn.
        base: what adapters name as their base.
    """

    backbone: Backbone
    start: str | None
    tokenizer: Any
    template: ChatTemplate
    stop_ids: tuple[int, ...]
    base: str


@dataclass(frozen=True, slots=True)
class Actors:
    """Who takes part in a stage that trains a policy.

    Attributes:
        ground: what they stand on.
        policy: the role that trains.
        reference: where the stage starts, frozen: the adapter it started from, or the plain model. None with full
            fine-tuning, where the starting weights are gone after the first step; what is needed of them is computed
            before it.
    """

    ground: Ground
    policy: Role
    reference: Role | None

    @property
    def backbone(self) -> Backbone:
        """The policy's backbone."""
        return self.policy.backbone


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded examples, checked; `index` of each group is its place in `train` or `validation`."""

    train: list[PromptGroup]
    validation: list[PromptGroup]


@contextmanager
def stage_run(config: TrainConfig) -> Iterator[Run]:
    """Open the run's directory for the length of a stage, with all random generators seeded.

    Raises:
        ConfigError: a tracker is not installed.
        OutputDirError: the directory holds something else, or data or model have changed since its run began.
    """
    check_trackers(config.trackers)
    config = config.model_copy(update={"model": model_of(config.model)})
    run = open_run(config)
    try:
        _demand_same_inputs(run)
        random.seed(config.seed)
        np.random.seed(config.seed)
        torch.manual_seed(config.seed)
        yield run
    except BaseException:
        run.discard_if_untouched()
        raise
    finally:
        run.close()


def _demand_same_inputs(run: Run) -> None:
    """Note the content of data, of a starting adapter and of what is monitored when a run begins; later they must be
    the same: looks are held against that of the start, text by text.

    A finished run can outlive all of these but its data.
    """
    config, before = run.config, run.record.get("inputs")
    inputs = {"data": data_fingerprint(config.data)}
    if isinstance(config.validation, str):
        inputs["validation"] = data_fingerprint(config.validation)
    if not run.finished and (adapter := resolve_model(config.model).adapter) is not None:
        inputs["model"] = directory_fingerprint(adapter)
    for name in ("reward", "judge"):  # PPO's reward models
        directory = Path(model_of(str(getattr(config, name, None) or "-")))
        if not run.finished and directory.is_dir():
            inputs[name] = directory_fingerprint(directory)
    watched = config.watched if isinstance(config, PolicyConfig) else None
    if watched is not None and not run.finished:
        inputs |= watched_inputs(watched)
    changed = [name for name, found in inputs.items() if (before or inputs).get(name, found) != found]
    if changed:
        raise OutputDirError(
            f"the {changed[0]} has changed since the run in this directory was started",
            where=str(run.out),
            fix=f"choose another --out for a new run, or bring the {changed[0]} back",
        )
    if before is None:
        run.note(inputs=inputs)


def read_data(config: TrainConfig, kind: Kind, console: Console) -> tuple[LoadedData, LoadedData | None]:
    """Read the examples of the stage, and those of a validation set of its own if one is named."""

    def read(data: str, limit: int | None, split: str | None) -> LoadedData:
        loaded = load_examples(
            data, kind=kind, on_bad_row=config.on_bad_row, limit=limit, split=split, **config.columns
        )
        if loaded.bad_rows:
            console.print(loaded.summary(), highlight=False, markup=False)
        return loaded

    read_suite(config)  # what the monitor will ask, for its mistakes to be found before a model is loaded
    train = read(config.data, config.limit, config.split)
    held_out = read(config.validation, None, None) if isinstance(config.validation, str) else None
    return train, held_out


def load_ground(config: TrainConfig, run: Run, console: Console) -> Ground:
    """Load the model with its tokenizer, and the adapter that the stage starts from (full fine-tuning merges it)."""
    full = config.tuning == "full"
    device = pick_device(config.device)
    compute = compute_dtype(config, run, device)
    weights = torch.float32 if full else compute
    loaded = load_model(run.config.model, dtype=weights, device=device, echo=console.print)
    for notice in loaded.notices:
        console.print(notice, highlight=False)
    tokenizer = loaded.tokenizer
    template = resolve_template(tokenizer, config.template)
    install_template(template, tokenizer)
    start = None if loaded.source.adapter is None else START
    if loaded.source.adapter is not None:
        load_adapter(loaded.model, loaded.source.adapter, START)
        if full:
            merge(Backbone(loaded.model, compute=config.compute), START, [tokenizer(MERGE_PROBE)["input_ids"]])
            start = None
        else:
            _say_what_of_lora_counts(config, loaded.model, console)
    backbone = Backbone(
        loaded.model, compute_dtype=compute, checkpointing=config.gradient_checkpointing, compute=config.compute
    )
    if backbone.layout == "rows" and not backbone.plain:
        console.print("this model's layers can't be masked for shared prompts: each response gets a row of its own")
    return Ground(backbone, start, tokenizer, template, stop_ids(template, tokenizer), base_name(loaded.source))


def _say_what_of_lora_counts(config: TrainConfig, model: Any, console: Console) -> None:
    """A stage goes on with the adapter that it starts from, whatever its own settings of LoRA are."""
    if config.lora != LoRAConfig(layers=config.lora.layers):
        console.print(
            "the stage goes on with the adapter that it starts from: of lora.* only layers has an effect",
            style="yellow",
        )
    prefix, layers = decoder_layers(model)
    numbers = [layer_number(path, prefix) for path, _ in lora_layers(model, START)]
    lowest = min((number for number in numbers if number is not None), default=0)
    if first_trained_layer(model, config.lora.layers) < lowest:
        console.print(
            f"that adapter begins at layer {lowest + 1} of {len(layers)}: the layers below stay as they are",
            highlight=False,
        )


def load_actors(config: TrainConfig, run: Run, console: Console) -> Actors:
    """Load the model and make policy and reference of it."""
    ground = load_ground(config, run, console)
    model = ground.backbone.model
    if config.tuning == "full":
        model.requires_grad_(True)
        actors = Actors(ground, ground.backbone.role(None), None)
    else:
        policy = adapter_to_train(ground, POLICY, config, seed=config.seed)
        actors = Actors(ground, policy, ground.backbone.role(ground.start))
    note_parameters(model, run, console)
    return actors


def adapter_to_train(ground: Ground, name: str, config: TrainConfig, *, seed: int) -> Role:
    """The role of an adapter that trains: a copy of the one that the stage starts from, or a new one.

    A copy shares the tensors of the layers that don't train (`lora.layers`) with the adapter that it is copied from.
    """
    model = ground.backbone.model
    if ground.start is None:
        token_ids = [_token_id(ground.tokenizer, token) for token in config.lora.trainable_tokens]
        inject(model, name, config.lora, seed=seed, token_ids=token_ids)
        return ground.backbone.role(name)
    freeze(adapter_parameters(model, ground.start))
    freeze(backbone_parameters(model))
    copy_adapter(model, ground.start, name, layers=config.lora.layers)
    return ground.backbone.role(name)


def note_parameters(model: Any, run: Run, console: Console, *, beside: int = 0) -> None:
    """Say and record how many parameters train; `beside` counts trained ones outside of the model, as a head is."""
    trainable, total = count_trainable_params(model)
    trainable, total = trainable + beside, total + beside
    console.print(f"{trainable:,} of {total:,} parameters train ({trainable / total:.2%})", highlight=False)
    if notice := excess_rank(model):
        console.print(notice, style="yellow", highlight=False)
    run.note(parameters={"trainable": trainable, "total": total})


def compute_dtype(config: TrainConfig, run: Run, device: torch.device) -> torch.dtype:
    """The dtype of the run's activations: what its first start chose, so that a resume elsewhere computes the same."""
    chosen = pick_dtype(run.record.get("compute_dtype", config.dtype), device)
    run.note(compute_dtype=str(chosen).removeprefix("torch."))
    return chosen


def base_name(source: ModelSource) -> str:
    """What an adapter's files call its base: a catalog name, a hub id, or an absolute path."""
    plain = source.plain
    return str(plain.path.resolve()) if plain.path is not None else plain.id


def _token_id(tokenizer: Any, token: str) -> int:
    ids = tokenizer.convert_tokens_to_ids([token])
    if ids[0] is None or ids[0] == tokenizer.unk_token_id:
        raise ConfigError(f"{token!r} is not a token of this model", where="lora.trainable_tokens")
    return int(ids[0])


def encode_data(
    config: TrainConfig,
    ground: Ground,
    data: tuple[LoadedData, LoadedData | None],
    run: Run,
    console: Console,
    *,
    policy: Role | None = None,
    room: int = 0,
) -> TrainingData:
    """Turn examples into token groups, run the preflight over them, and split off the validation set.

    Args:
        config: the stage's settings.
        ground: the model and its tokenizer.
        data: what `read_data` found.
        run: takes counts and the data's fingerprint.
        console: takes the preflight's findings.
        policy: who will have to produce the stop token; none where nobody has to, as with a reward model.
        room: tokens that a response to be sampled takes in the context, beside what is encoded.

    Raises:
        PreflightError: when what the model would see is not fit to train on.
        OutputDirError: when the run in this directory was started on other data.
    """
    loaded, held_out = data
    n_train_file = len(loaded.examples)
    # In one list, numbered through: a held-out example is one whose number lies beyond the training file's.
    examples = [*loaded.examples, *(held_out.examples if held_out is not None else ())]
    groups, refused = encode_usable(ground.template, ground.tokenizer, examples, on_bad_row=config.on_bad_row)
    if refused:
        console.print(left_out(refused), highlight=False, markup=False)
    backbone = ground.backbone
    report, kept = preflight(
        groups,
        ground.tokenizer,
        ground.template,
        context=min(config.max_length or backbone.context_length, backbone.context_length) - room,
        embeddings=None if policy is None or config.tuning == "full" else policy.head().weight,
        trainable_tokens=_trainable_tokens(policy, ground.tokenizer),
        too_long=config.too_long,
    )
    report.raise_if_failed()
    show_report(report, console)
    if held_out is None:
        places = split(len(kept), float(config.validation), config.seed)
        kept_train, kept_held = ([kept[i] for i in part] for part in places)
    else:
        kept_train, kept_held = ([g for g in kept if (g.index < n_train_file) is own] for own in (True, False))
    if not kept_train:
        raise DataError("no example is left to train on", where=config.data)
    _demand_same_data(run, [*kept_train, *kept_held])
    run.note(
        data={
            "read": loaded.n_read,
            "bad_rows": len(loaded.bad_rows) + n_train_file - sum(group.index < n_train_file for group in groups),
            "training": len(kept_train),
            "validation": len(kept_held),
            "too_long": len(groups) - len(kept),
            "loss_tokens": sum(g.loss_tokens for g in kept_train),
            "sha256": _fingerprint([*kept_train, *kept_held]),
        }
    )
    return TrainingData(_numbered(kept_train), _numbered(kept_held))


def _numbered(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    return [replace(group, index=i) for i, group in enumerate(groups)]


def _trainable_tokens(policy: Role | None, tokenizer: Any) -> list[str]:
    """Tokens whose *output* row trains: a stop token must be produced. Of untied embeddings only the input's does."""
    own = None if policy is None else policy.head().row_ids
    return [] if own is None else tokenizer.convert_ids_to_tokens(own.tolist())


def _fingerprint(groups: Sequence[PromptGroup]) -> str:
    """A hash of every token, loss flag and margin: what the model will be trained on, whatever file it came from."""
    digest = hashlib.sha256()
    for group in groups:
        margin = [] if group.margin is None else [group.margin]
        digest.update(json.dumps([group.prompt, [(r.ids, r.loss) for r in group.responses], *margin]).encode())
    return digest.hexdigest()


def _demand_same_data(run: Run, groups: Sequence[PromptGroup]) -> None:
    before = run.record.get("data", {}).get("sha256")
    if before is not None and before != _fingerprint(groups):
        raise OutputDirError(
            "the data has changed since this run was started",
            where=str(run.out),
            fix="choose another --out, or bring the data back to resume that run",
        )


def finish(run: Run, actors: Actors, steps: int, metrics: dict[str, Any], config: TrainConfig) -> None:
    """Write the finished adapter or model, mark the run as finished, and remove its checkpoints."""
    finish_with(run, lambda path: write_policy(actors, path, model_dtype(config)), steps, metrics)


def finish_with(run: Run, write: Callable[[Path], None], steps: int, metrics: dict[str, Any]) -> None:
    """The same for a stage that writes something else than a policy: `write` fills the model's directory."""
    with atomic_directory(run.model, replace=True) as temporary:
        write(temporary)
    run.note(steps=steps, metrics=metrics, finished=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    shutil.rmtree(run.best, ignore_errors=True)


def model_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype in which a whole model is written."""
    return DTYPES.get(config.dtype, torch.bfloat16)


def write_policy(actors: Actors, directory: Path, dtype: torch.dtype) -> None:
    """Write the policy into an existing directory: an adapter with its tokenizer, or a whole model."""
    model, adapter, ground = actors.backbone.model, actors.policy.adapter, actors.ground
    if adapter is None:
        write_model(model.to(dtype), ground.tokenizer, directory, stop_ids=ground.stop_ids)
        return
    save_adapter(model, adapter, directory, base=ground.base)
    ground.tokenizer.save_pretrained(directory)
