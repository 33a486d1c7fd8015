"""From a quantised GGUF file to a plain model directory: bf16 safetensors, config and tokenizer.

transformers reads the file; what a GGUF file can't say, or says in rounded form, is put right here, and the result is
loaded again the plain way and held against what is known of the model. A conversion that fails a check is an error:
a silently wrong norm or rope would only show as a model that learns badly.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.models.directory import read_weights

Echo = Callable[[str], None]

ROUND_TRIP_TEXTS: tuple[str, ...] = (
    "The capital of France is Paris.",
    "a line\n\nand another,\n\n\n\tindented\r\n",
    "  two   or  more    spaces ",
    "1234567890 3.14159 -42 10,000  12",
    "naïve façade, Ελληνικά, Привет, 東京, हिन्दी, العربية",
    "🙂👩‍👩‍👧 e\u0301 \u00a0 \u200b",
    "def f(x):\n    return {'a': [x + 1, 'b\"c']}\n",
    "<b>html</b> | a | b | $x^2$ \\frac{1}{2}",
)
"""Texts that every tokenizer in the catalog must give back unchanged."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model from its publisher, to hold a conversion against.

    Attributes:
        config: expected values of the configuration, under dotted paths (`rope_parameters.rope_theta`).
        special_tokens: expected ids of tokens.
        eos_token: the token that ends a text.
        adds_bos: whether the tokenizer puts BOS before a text.
        n_parameters: how many parameters the model has, tied ones counted once.
        context_length: tokens; becomes the tokenizer's `model_max_length`.
        tied: whether the output projection is the input embedding.
        probe: a prompt and the text that its most likely next token must give.
        token_ids: a text and its ids by the publisher's tokenizer, without special tokens.
        split_digits: the tokenizer takes each digit alone before all else. A GGUF file says so only through the name
            of its pre-tokenizer (`smollm`), for which transformers builds GPT-2's, that differs after several spaces.
    """

    config: Mapping[str, Any]
    special_tokens: Mapping[str, int]
    eos_token: str
    adds_bos: bool
    n_parameters: int
    context_length: int
    tied: bool
    probe: tuple[str, str] | None = None
    token_ids: tuple[str, tuple[int, ...]] | None = None
    split_digits: bool = False


def convert_gguf(source: Path, target: Path, facts: ModelFacts, *, echo: Echo = print) -> None:
    """Write the model of a GGUF file into the existing directory `target` as a plain Hugging Face model in bf16.

    Takes about a minute for 270 M parameters and a vocabulary of 262,144, and about six times the bf16 size in memory.

    Args:
        source: the GGUF file.
        target: an existing directory.
        facts: what the result is held against.
        echo: takes lines that tell how far it is.

    Raises:
        ModelError: a package is missing, the file can't be read, or the result is not what `facts` says.
        OSError: the disk is full or not writable.
    """
    _require_packages()
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
        "local_files_only": True,
    }
    with _parsed_once():
        _convert(where, target, facts, echo)

    echo("  checking the result")
    check_model(target, facts)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Keep what the reader made of the file: transformers asks for it anew for the tokenizer, the configuration and the
    weights, and with a vocabulary of 262,144 each time costs a quarter of a minute."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        gguf.GGUFReader = reader  # type: ignore[misc]


def _convert(where: Mapping[str, Any], target: Path, facts: ModelFacts, echo: Echo) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    echo("  reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(**where)
    _mend_tokenizer(tokenizer, facts)
    tokenizer.save_pretrained(str(target))
    _scrub(target / "tokenizer_config.json", ("is_local", "local_files_only"))

    echo("  unpacking the quantised weights to bf16")
    config = AutoConfig.from_pretrained(**where)
    _mend_config(config)
    # Without `dequantize` the weights would stay packed, for kernels that can't train.
    model = AutoModelForCausalLM.from_pretrained(
        **where, config=config, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(target))
    _scrub(target / "config.json", ("_name_or_path", "_model_name_or_path", "quantization_config"))


def check_model(directory: Path, facts: ModelFacts) -> None:
    """Load a converted model the plain way and hold it against what is known of it.

    Raises:
        ModelError: naming every difference.
    """
    import torch
    from transformers import AutoTokenizer

    wrong: list[str] = []
    tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    wrong += _check_tokenizer(tokenizer, facts)
    model, info = read_weights(directory, torch.bfloat16)
    for kind in ("missing_keys", "unexpected_keys"):
        if info[kind]:
            wrong.append(f"{kind}: {', '.join(sorted(info[kind])[:5])}")
    wrong += _check_config(model.config.to_dict(), facts)
    wrong += _check_weights(model, facts)
    if facts.probe is not None and not wrong:
        prompt, expected = facts.probe
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            best = int(model(ids).logits[0, -1].argmax())
        if tokenizer.decode([best]).strip() != expected:
            wrong.append(f"after {prompt!r} the model says {tokenizer.decode([best])!r}, not {expected!r}")
    if wrong:
        raise ModelError(
            "the converted model is not what it should be: " + "; ".join(wrong),
            where=str(directory),
            fix="install the pinned versions of transformers and gguf; if they are, please report it",
        )


def _require_packages() -> None:
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"reading a GGUF file needs the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            fix="pip install 'burnish[gguf]'",
        )


def _mend_tokenizer(tokenizer: Any, facts: ModelFacts) -> None:
    """Give the tokenizer what the GGUF file does not carry."""
    tokenizer.model_max_length = facts.context_length
    if facts.split_digits:
        from tokenizers import pre_tokenizers

        core = tokenizer.backend_tokenizer
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _mend_config(config: Any) -> None:
    """GGUF stores the norm's epsilon as a 32-bit float: 1e-06 reads back as 9.999999974752427e-07."""
    if getattr(config, "rms_norm_eps", None) is not None:
        config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")


def _scrub(path: Path, keys: tuple[str, ...]) -> None:
    """Take keys that speak of the machine of conversion, or of the GGUF file, out of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_tokenizer(tokenizer: Any, facts: ModelFacts) -> list[str]:
    wrong = []
    for token, expected in facts.special_tokens.items():
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if ids != [expected]:
            wrong.append(f"{token} is tokenised as {ids}, not as [{expected}]")
    if tokenizer.eos_token != facts.eos_token:
        wrong.append(f"EOS is {tokenizer.eos_token!r}, not {facts.eos_token!r}")
    for text in ROUND_TRIP_TEXTS:
        back = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
        if back != text:
            wrong.append(f"the tokenizer turns {text!r} into {back!r}")
    ids = tokenizer("a")["input_ids"]
    if facts.adds_bos != (tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id):
        wrong.append(f"the tokenizer {'does not add' if facts.adds_bos else 'adds'} BOS")
    if facts.token_ids is not None:
        text, expected_ids = facts.token_ids
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tuple(ids) != expected_ids:
            wrong.append(f"{text!r} is tokenised as {ids}, not as {list(expected_ids)}")
    return wrong


def _check_config(config: Mapping[str, Any], facts: ModelFacts) -> list[str]:
    wrong = []
    for path, expected in facts.config.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value != expected:
            wrong.append(f"config {path} is {value!r}, not {expected!r}")
    return wrong


def _check_weights(model: Any, facts: ModelFacts) -> list[str]:
    import torch

    wrong = []
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != facts.n_parameters:
        wrong.append(f"{count} parameters, not {facts.n_parameters}")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if tied != facts.tied:
        wrong.append(f"the output projection is {'tied' if tied else 'not tied'} to the embedding")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            wrong.append(f"{name} holds values that are not finite")
    return wrong
