"""In which dtype a model is computed. The peers' environments have no burnish, so it stands beside their scripts."""

from __future__ import annotations

from typing import Any


def note_dtypes(model: Any, seen: set[str] | None = None, *, training: bool = False) -> set[str]:
    """In which dtype a model's products are computed: that of what its last MLP puts out, which under autocast is not
    that of its weights.

    Args:
        model: a decoder of transformers.
        seen: takes the names, as in `float32`; a new set if not given.
        training: only of passes that have a gradient.

    Returns:
        `seen`, which fills as the model runs.
    """
    found: set[str] = set() if seen is None else seen
    [*_, mlp] = [module for name, module in model.named_modules() if name.endswith(".mlp")]

    def note(_: Any, __: Any, output: Any) -> None:
        if output.requires_grad or not training:
            found.add(str(output.dtype).removeprefix("torch."))

    mlp.register_forward_hook(note)
    return found
