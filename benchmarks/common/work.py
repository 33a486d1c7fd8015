"""The work of a comparison: examples, model and setting, written once into a directory that both sides read.

DIR/setting.json         model, batch, LoRA, learning rate; the examples of each step, longest first
DIR/examples.jsonl       the examples as messages, as burnish reads them
DIR/examples.json        the same as token ids, as the peer is given them
DIR/adapter.safetensors  where LoRA starts, under PEFT's names: the gradient of B depends on A
DIR/head.safetensors     where a reward model's head starts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.flops import Lengths, ModelSize

Setting = dict[str, Any]
TokenIds = dict[str, Any]
"""`{"prompt": [ids], "responses": [[ids], ...]}`"""

NAMES = {"sft": ("completion",), "reward": ("chosen", "rejected"), "dpo": ("chosen", "rejected")}
"""The columns of a stage's responses."""


def prepare(work: Path, stage: str, setting: Setting, data: str) -> Setting:
    """Choose the examples, and write them with the setting.

    The first ones in the data set that fit are taken: batch x (steps + 1), the extra step being the one that warms up.

    Raises:
        SystemExit: the data hold too few.
    """
    from burnish.data.batching import DataOrder
    from burnish.data.chat import encode_examples, install_template, resolve_template
    from burnish.models.loading import load_model, resolve_model

    work.mkdir(parents=True, exist_ok=True)
    loaded = load_model(setting["model"], dtype=_float32(), device="cpu")
    tokenizer = loaded.tokenizer
    template = resolve_template(tokenizer, "auto")
    install_template(template, tokenizer)
    wanted = setting["batch"] * (setting["steps"] + 1)
    rows = _rows(data, stage, lambda row: _fits(row, template, tokenizer, setting["max_length"]), wanted)
    _write(work / "examples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    import burnish as bn

    kind = "sft" if stage == "sft" else "preference"
    read = bn.load_examples(str(work / "examples.jsonl"), kind=kind).examples  # as burnish itself will read them
    groups = encode_examples(template, tokenizer, read)
    ids = [{"prompt": list(g.prompt), "responses": [list(r.ids) for r in g.responses]} for g in groups]
    _write(work / "examples.json", json.dumps(ids))
    order = DataOrder(wanted, setting["batch"], setting["seed"])
    batches = [order.batch(step) for step in range(setting["steps"] + 1)]
    setting = {
        **setting,
        "stage": stage,
        "directory": str(resolved_directory(resolve_model(setting["model"]))),
        "pad_token": padding_token(tokenizer, {group.responses[0].ids[-1] for group in groups}),
        "order": [sorted(batch, key=lambda i: (-_longest(ids[i]), i)) for batch in batches],
        "size": asdict(model_size(loaded.model)),
    }
    if stage == "reward":
        _write_head(loaded.model, setting["seed"], work / "head.safetensors")
    if setting.get("tuning") != "full":
        _write_adapter(loaded.model, setting, work / "adapter.safetensors")
    _write(work / "setting.json", json.dumps(setting, indent=1))
    return setting


def read_setting(work: Path) -> Setting:
    """The setting.

    Raises:
        SystemExit: there is none.
    """
    path = work / "setting.json"
    if not path.is_file():
        raise SystemExit(f"{work} holds no prepared work\n  to do: run the same command with `prepare` first")
    setting: Setting = json.loads(path.read_text(encoding="utf-8"))
    return setting


def read_lengths(work: Path) -> list[Lengths]:
    """Tokens of each example's prompt and responses."""
    ids = json.loads((work / "examples.json").read_text(encoding="utf-8"))
    return [(len(one["prompt"]), [len(response) for response in one["responses"]]) for one in ids]


def public(setting: Setting) -> Setting:
    """The setting without what is of this machine alone."""
    return {name: value for name, value in setting.items() if name not in ("directory", "order")}


def resolved_directory(source: Any) -> Path:
    """Where the files of a model lie, as an absolute path."""
    from burnish.models.loading import model_directory

    return model_directory(source).resolve()


def padding_token(tokenizer: Any, last: set[int]) -> str:
    """A token to pad with that ends no response: classifiers read their score before the padding.

    Raises:
        SystemExit: the vocabulary has none.
    """
    vocabulary = tokenizer.get_vocab()
    for name in ("<pad>", "[PAD]", "<|endoftext|>", tokenizer.unk_token, tokenizer.bos_token):
        if name in vocabulary and vocabulary[name] not in last:
            return str(name)
    raise SystemExit("the tokenizer has no token to pad with that does not end a response too")


def model_size(model: Any) -> ModelSize:
    """The weights that a step multiplies with."""
    import torch

    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    vocabulary, hidden = head.weight.shape
    return ModelSize(
        linear=sum(layer.weight.numel() for layer in layers),
        widths=sum(layer.in_features + layer.out_features for layer in layers),
        hidden=hidden,
        vocabulary=vocabulary,
    )


def read_prompts(
    data: str, template: Any, tokenizer: Any, *, wanted: int, longest: int
) -> list[tuple[list[dict[str, str]], list[int]]]:
    """Messages and token ids of the first prompts of a data set that have at most `longest` tokens, each once.

    Raises:
        SystemExit: there are too few.
    """
    import burnish as bn
    from burnish.data.chat import encode_prompt

    found: list[tuple[list[dict[str, str]], list[int]]] = []
    for example in bn.load_examples(data, kind="prompt", on_bad_row="skip").examples:
        ids = encode_prompt(template, tokenizer, example.prompt)
        if len(ids) <= longest and all(ids != other for _, other in found):
            found.append((_messages(example.prompt), ids))
        if len(found) == wanted:
            return found
    raise _too_few(data, len(found), wanted, f"prompts of at most {longest} tokens")


# ---- the examples ----


def _rows(data: str, stage: str, fits: Any, wanted: int) -> list[dict[str, Any]]:
    """The first rows that fit, as messages."""
    import burnish as bn

    found: list[dict[str, Any]] = []
    for example in bn.load_examples(data, kind="preference", on_bad_row="skip").examples:
        names = NAMES[stage]
        answers = {name: _messages(turns) for name, turns in zip(names, example.responses, strict=False)}
        row = {"prompt": _messages(example.prompt), **answers}
        if fits(row):
            found.append(row)
        if len(found) == wanted:
            return found
    raise _too_few(data, len(found), wanted, "pairs that fit")


def _messages(turns: Sequence[Any]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _fits(row: dict[str, Any], template: Any, tokenizer: Any, longest: int) -> bool:
    """Whether prompt and longest response have at most `longest` tokens."""
    from burnish.data.chat import encode_example
    from burnish.data.examples import Example, Message, Origin
    from burnish.errors import TemplateError

    def turns(messages: list[dict[str, str]]) -> tuple[Message, ...]:
        return tuple(Message(**message) for message in messages)

    answers = tuple(turns(value) for name, value in row.items() if name != "prompt")
    try:
        group = encode_example(template, tokenizer, Example(turns(row["prompt"]), answers, Origin("row")))
    except TemplateError:
        return False
    return group.context_length <= longest and all(all(r.loss) for r in group.responses)


def _too_few(data: str, found: int, wanted: int, what: str) -> SystemExit:
    return SystemExit(
        f"{data} holds {found} {what}, {wanted} are needed\n"
        "  to do: give other data, fewer --steps, a smaller --batch or a larger --max-length"
    )


def _longest(ids: TokenIds) -> int:
    return len(ids["prompt"]) + max(len(response) for response in ids["responses"])


def _write_head(model: Any, seed: int, path: Path) -> None:
    """The head that burnish's reward model starts from with this seed."""
    from safetensors.torch import save_file

    from burnish.models.heads import new_head
    from burnish.models.roles import Backbone

    save_file({"score": new_head(Backbone(model), seed=seed).detach().contiguous()}, path)


def _write_adapter(model: Any, setting: Setting, path: Path) -> None:
    """The adapter that burnish's stages start from with this seed; the model holds it from here on."""
    from safetensors.torch import save_file

    from burnish.models.adapters import adapter_tensors
    from burnish.models.lora import LoRAConfig, inject

    config = LoRAConfig(rank=setting["rank"], alpha=setting["alpha"], targets="all-linear")
    inject(model, "start", config, seed=setting["seed"])
    save_file(adapter_tensors(model, "start"), path)


def _float32() -> Any:
    import torch

    return torch.float32


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
