"""Reward models on disk: adapters with a head in PEFT's format, or whole models as transformers' classifiers.

DIR/reward.json           what is in the directory: its members, and which of them is held back
DIR/adapter_*, tokenizer  of a single member
DIR/member-1/ ...         of an ensemble, each a directory that loads alone

transformers reads a score at the last token of a row that is not padding, so padding must be a token that ends no
response. In the tokenizers here it is one. A whole classifier's config says the same; an adapter brings no config, and
where the base's padding ends responses (often it is EOS) whoever loads it in PEFT has to say so:

    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from burnish.data.chat import install_template, resolve_template, stop_ids
from burnish.data.templates import ChatTemplate
from burnish.errors import ModelError
from burnish.files import write_json
from burnish.models.adapters import HEAD, load_adapter_with_head, save_adapter
from burnish.models.config import Compute
from burnish.models.gguf import Echo
from burnish.models.heads import Scorer
from burnish.models.loading import ModelSource, load_model, resolve_model
from burnish.models.lora import tie_adapters
from burnish.models.roles import Backbone, freeze

RECORD = "reward.json"
_HEAD_TENSOR = f"{HEAD}.weight"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """One reward model or an ensemble, on one backbone.

    Attributes:
        scorers: the members that give the score.
        judge: the member that was held back, or none.
        tokenizer: with the template that the model was trained with.
        template: how conversations become text.
    """

    scorers: tuple[Scorer, ...]
    judge: Scorer | None
    tokenizer: Any
    template: ChatTemplate

    @property
    def backbone(self) -> Backbone:
        """The backbone of all members."""
        return self.scorers[0].role.backbone


def write_reward_model(
    scorers: Sequence[Scorer],
    directory: Path,
    *,
    tokenizer: Any,
    base: str,
    dtype: torch.dtype,
    holdout: bool,
    head_only: bool = False,
) -> None:
    """Write the members into an existing directory.

    Args:
        scorers: one, or the members of an ensemble.
        directory: takes the files; each member of an ensemble gets a directory of its own in it.
        tokenizer: with its chat template.
        base: what adapters name as their base.
        dtype: of a whole model's weights; its head keeps its own.
        holdout: whether the last member is to be held back from training a policy.
        head_only: whether nothing but the head was trained. On a plain base the weights beside it are then the base's
            own, which whoever has the base at hand can do without (see `base_of`).
    """
    names = ["."] if len(scorers) == 1 else [f"member-{number}" for number in range(1, len(scorers) + 1)]
    for name, scorer in zip(names, scorers, strict=True):
        place = directory / name
        place.mkdir(exist_ok=True)
        write_scorer(scorer, place, tokenizer=tokenizer, base=base, dtype=dtype)
    held_back = names[-1] if holdout else None
    write_json(directory / RECORD, {"members": names, "holdout": held_back, "base": base, "head_only": head_only})


def write_scorer(scorer: Scorer, directory: Path, *, tokenizer: Any, base: str, dtype: torch.dtype) -> None:
    """Write one scorer, a reward model's or a critic, into an existing directory that loads alone: an adapter with its
    head, or a whole classifier. The arguments are those of `write_reward_model`."""
    if scorer.role.adapter is None:
        write_classifier(scorer, tokenizer, directory, dtype=dtype)
        return
    save_adapter(scorer.role.backbone.model, scorer.role.adapter, directory, base=base, head=scorer.head)
    with_own_padding(tokenizer).save_pretrained(directory)


def write_classifier(scorer: Scorer, tokenizer: Any, directory: Path, *, dtype: torch.dtype) -> None:
    """Write a scorer without an adapter as a directory that `AutoModelForSequenceClassification` loads.

    Raises:
        ModelError: when transformers has no classifier of this architecture.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    backbone = scorer.role.backbone
    kind, classifiers = type(backbone.config), cast(Any, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    if kind not in classifiers:
        raise ModelError(
            f"transformers has no classifier of the architecture {backbone.config.model_type}",
            fix="keep the reward model as an adapter",
        )
    tokenizer = with_own_padding(tokenizer)
    config = copy.deepcopy(backbone.config)
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    config.num_labels = 1
    with torch.device("meta"):  # its tensors are the backbone's own: nothing is allocated
        classifier: Any = classifiers[kind](config)
    classifier.base_model.load_state_dict(backbone.decoder.state_dict(), assign=True)
    classifier.score.weight = nn.Parameter(scorer.head.detach(), requires_grad=False)
    tensors = {name: tensor.to(dtype) for name, tensor in classifier.state_dict().items()}
    tensors[_HEAD_TENSOR] = scorer.head.detach()  # one row, trained in full precision: scores keep its digits
    classifier.config.dtype = dtype
    classifier.save_pretrained(directory, state_dict=tensors, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def with_own_padding(tokenizer: Any) -> Any:
    """A copy of the tokenizer whose padding token is one that no response ends with."""
    ends = _ends(tokenizer)
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, 0, 1, 2]
    padding = next(i for i in candidates if i is not None and i not in ends)
    found = copy.deepcopy(tokenizer)
    found.pad_token = found.convert_ids_to_tokens(padding)
    return found


def padding_ends_responses(config: Any, tokenizer: Any) -> bool:
    """Whether the padding token of a model's config ends responses. An adapter can't change its base's config, and so
    transformers reads the adapter's scores a token too early, until it is told another padding token."""
    return config.get_text_config().pad_token_id in _ends(tokenizer)


def _ends(tokenizer: Any) -> set[int]:
    return set(stop_ids(resolve_template(tokenizer, "auto"), tokenizer))


def load_reward_model(
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    echo: Echo = print,
    onto: Backbone | None = None,
    prefix: str = "reward",
    compute: Compute = "fast",
) -> RewardModel:
    """Load what the stage reward left: one member, or an ensemble on one backbone.

    Args:
        directory: the reward model's, or that of one member of an ensemble.
        dtype: of the weights.
        device: where they go.
        echo: takes lines on a conversion or download.
        onto: a backbone of the plain model that the members' adapters or bare heads stand on (see `base_of`);
            they are added to it, and nothing else is loaded. The tokenizer is then the reward model's own.
        prefix: the adapters are called PREFIX-1, PREFIX-2, ...
        compute: of a backbone that is made here.

    Raises:
        ModelError: not a reward model, or its base can't be found.
        AdapterError: a member is damaged or does not fit the base.
    """
    record = _read_record(directory)
    members = [directory / name for name in record["members"]]
    source = resolve_model(str(members[0]))
    if onto is None:
        loaded = load_model(source, dtype=dtype, device=device, echo=echo, classifier=source.adapter is None)
        tokenizer = loaded.tokenizer
        model: nn.Module = loaded.model
    else:
        tokenizer, model = _own_tokenizer(members[0]), onto.model
    template = resolve_template(tokenizer, "auto")
    install_template(template, tokenizer)
    if source.adapter is None:
        backbone = onto or Backbone(model, compute=compute)
        scorers = [Scorer(backbone.role(None), _parameter(_classifier_head(members[0]), backbone))]
    else:
        heads = _load_members(model, members, source, prefix)
        backbone = onto or Backbone(model, compute=compute)
        scorers = [Scorer(backbone.role(name), _parameter(head, backbone)) for name, head in heads.items()]
        for scorer in scorers:
            freeze(scorer.role.parameters())
        for name in list(heads)[1:]:
            tie_adapters(model, name, next(iter(heads)))
    held_back = record.get("holdout") is not None
    return RewardModel(
        scorers=tuple(scorers[:-1] if held_back else scorers),
        judge=scorers[-1] if held_back else None,
        tokenizer=tokenizer,
        template=template,
    )


def base_of(directory: Path) -> ModelSource | None:
    """The plain model that a reward model's adapters, or its head alone, stand on; none where it is a whole model of
    its own, or the base of a bare head is gone.

    Raises:
        ModelError: not a reward model.
    """
    record = _read_record(directory)
    source = resolve_model(str(directory / record["members"][0]))
    if source.adapter is not None:
        return source.plain
    if not record.get("head_only"):
        return None
    try:
        return resolve_model(record["base"]).plain
    except ModelError:  # nothing is lost: its own copy of the weights lies beside the head
        return None


def _own_tokenizer(member: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(member), local_files_only=True, trust_remote_code=False)


def _load_members(model: nn.Module, members: Sequence[Path], first: ModelSource, prefix: str) -> dict[str, Tensor]:
    heads: dict[str, Tensor] = {}
    for number, member in enumerate(members, start=1):
        if resolve_model(str(member)).plain != first.plain:
            raise ModelError(f"the members stand on different models: {member} not on {first.plain}")
        name = f"{prefix}-{number}"
        heads[name] = load_adapter_with_head(model, member, name)
    return heads


def _parameter(head: Tensor, backbone: Backbone) -> nn.Parameter:
    dtype = torch.float64 if backbone.compute_dtype == torch.float64 else torch.float32
    return nn.Parameter(head.to(backbone.device, dtype), requires_grad=False)


def _classifier_head(directory: Path) -> Tensor:
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if _HEAD_TENSOR in file.keys():  # noqa: SIM118 -- a safetensors file is no mapping
                head: Tensor = file.get_tensor(_HEAD_TENSOR)
                return head
    raise ModelError(f"the weights hold no {_HEAD_TENSOR}", where=str(directory), fix="is it a reward model?")


def is_reward_model(directory: Path) -> bool:
    """Whether a directory holds what the stage reward writes: a reward model, or one member of an ensemble."""
    return (directory / RECORD).is_file() or _ensemble_of(directory) is not None


def _ensemble_of(member: Path) -> dict[str, Any] | None:
    """The record of the ensemble in the directory above, if that names this directory among its members."""
    above = member.absolute().parent
    if not (member.is_dir() and (above / RECORD).is_file()):
        return None
    record = _read_record(above)
    return record if member.name in record["members"] else None


def reward_members(directory: Path) -> list[Path]:
    """The directories of a reward model's members: itself, where it is a single one.

    Raises:
        ModelError: not a reward model, or a member is missing.
    """
    return [directory / name for name in _read_record(directory)["members"]]


def _read_record(directory: Path) -> dict[str, Any]:
    fix = "give the directory of a run of burnish reward, or its model/"
    if not (directory / RECORD).is_file():
        if (ensemble := _ensemble_of(directory)) is None:
            raise ModelError(f"not a reward model: it has no {RECORD}", where=str(directory), fix=fix)
        return {**ensemble, "members": ["."], "holdout": None}
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        members = [str(name) for name in record["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError("the reward model's record can't be read", where=str(directory / RECORD), fix=fix) from None
    if missing := [name for name in members if not (directory / name).is_dir()]:
        raise ModelError(f"a member of the ensemble is missing: {missing[0]}", where=str(directory), fix=fix)
    return {**record, "members": members}
