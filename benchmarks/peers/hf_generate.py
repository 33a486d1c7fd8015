"""A peer's side of `benchmarks/sampling.py`: `generate` of Hugging Face's transformers.

    peer/bin/python benchmarks/peers/hf_generate.py --work DIR

by a python with torch and transformers; DIR is what `benchmarks/sampling.py prepare` wrote. All prompts are one batch,
padded on the left, with the default KV cache and attention. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from computed_dtypes import note_dtypes
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging


def main() -> None:
    """Generate, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `sampling.py prepare` wrote")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = json.loads((arguments.work / "setting.json").read_text(encoding="utf-8"))
    prompts = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(setting["directory"], padding_side="left")
    tokenizer.pad_token = setting["pad_token"]
    model = AutoModelForCausalLM.from_pretrained(setting["directory"], dtype=getattr(torch, arguments.dtype))
    # In the place of the model's own settings, whose EOS would end answers at different lengths.
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    dtypes = note_dtypes(model)
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    proof = greedy(model, inputs, setting["proof_tokens"])
    seconds, counts = [], set()
    for repeat in range(arguments.repeats):
        torch.manual_seed(repeat)
        started = time.perf_counter()
        sampling: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        answers = model.generate(**inputs, **sampling, max_new_tokens=setting["new_tokens"])
        seconds.append(time.perf_counter() - started)
        counts.add(answers.shape[1] - inputs["input_ids"].shape[1])
    result = {
        "side": "transformers",
        "seconds": seconds,
        "seconds_per_call": statistics.median(seconds),
        "dtype": "+".join(sorted(dtypes)),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("transformers", "torch")},
        "work": {"prompts": len(prompts), "new_tokens": sorted(counts)},
        "proof": proof,
    }
    print(json.dumps(result))


def greedy(model: Any, inputs: Any, new_tokens: int) -> list[list[tuple[int, float]]]:
    """(token, log-prob) of each step, for each prompt."""
    best = Best()
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=new_tokens, logits_processor=LogitsProcessorList([best])
    )
    tokens, logprobs = out[:, inputs["input_ids"].shape[1] :], torch.stack(best.logprobs, 1)
    return [list(zip(t, p, strict=True)) for t, p in zip(tokens.tolist(), logprobs.tolist(), strict=True)]


class Best(LogitsProcessor):
    """Notes the log-prob of the most probable token of each row at each step, which is the one that greedy decoding
    takes. The logits are not kept: those of some steps would be the peak of the process's memory."""

    def __init__(self) -> None:
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logprobs.append(scores.amax(-1) - torch.logsumexp(scores.float(), -1))
        return scores


if __name__ == "__main__":
    main()
