"""burnish: post-training for language models, from a raw model to an assistant, and the evidence of what changed.

    import burnish as bn

    sft = bn.train_sft(bn.SFTConfig(model="gemma-3-270m", data="starter/sft", out="runs/sft"))
    dpo = bn.train_dpo(bn.DPOConfig(model=str(sft.model), data="starter/preferences", out="runs/dpo"))
    bn.merge_model(str(dpo.model), Path("runs/merged"))

A name is imported when it is first used (PEP 562), so `import burnish` itself is instant.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name stands. The stub __init__.pyi says the same to type checkers; a test compares the two.
_PLACES = {
    "burnish.errors": ("BurnishError",),
    "burnish.models.config": ("LoRAConfig",),
    "burnish.models.loading": ("LoadedModel", "load_model"),
    "burnish.models.lora": ("count_trainable_params",),
    "burnish.data.sources": ("Example", "LoadedData", "Message", "load_examples"),
    "burnish.rollout.sampler": ("Sample", "SamplingParams", "sample"),
    "burnish.rollout.speakers": ("Speaker", "load_speakers"),
    "burnish.stages.config": ("DPOConfig", "RewardConfig", "SFTConfig"),
    "burnish.stages.ppo_config": ("PPOConfig",),
    "burnish.stages.run": ("RunResult",),
    "burnish.stages.sft": ("train_sft",),
    "burnish.models.reward": ("RewardModel", "load_reward_model"),
    "burnish.stages.reward": ("train_reward",),
    "burnish.stages.score": ("Scored", "score_data"),
    "burnish.stages.dpo": ("train_dpo",),
    "burnish.stages.ppo": ("train_ppo",),
    "burnish.stages.merge": ("MergeResult", "merge_model"),
    "burnish.pipeline.recipe": ("Recipe", "load_recipe"),
    "burnish.pipeline.run": ("RecipeResult", "run_recipe"),
    "burnish.pipeline.report": ("report",),
    "burnish.pipeline.report_config": ("ReportConfig",),
}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = ["__version__", *sorted(_PLACE_OF)]  # built from the table above


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'burnish' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACE_OF})
