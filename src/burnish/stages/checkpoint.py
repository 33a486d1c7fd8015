"""Checkpoints from which a run goes on to the same bits: weights, optimiser, random state, place in the data.

A checkpoint is a directory that appears as a whole (`files.atomic_directory`) and holds safetensors and JSON only, no
pickle. The learning rate and the data order are functions of the step, so the step is all that they need.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from burnish.errors import CheckpointError
from burnish.files import atomic_directory

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says besides the weights: steps done, and whatever the loop and the stage want back."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    directory: Path,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    keep: int,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of `step` done steps, then remove all but the last `keep`.

    Args:
        directory: holds one subdirectory a checkpoint.
        step: optimiser steps done.
        parameters: what trains, by stable name.
        optimiser: AdamW over exactly these parameters.
        state: plain values the loop wants back (best loss so far, and so on).
        keep: how many checkpoints stay.
        tensors: what the stage wants back, by name.
    """
    target = directory / f"step-{step:08d}"
    if not target.exists():
        with atomic_directory(target) as temporary:
            save_file(
                {name: p.detach().contiguous() for name, p in parameters.items()}, temporary / "weights.safetensors"
            )
            save_file(_optimiser_tensors(parameters, optimiser), temporary / "optimiser.safetensors")
            save_file(_random_tensors(), temporary / "random.safetensors")
            own = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
            save_file(own, temporary / "stage.safetensors")
            record = {"step": step, "state": dict(state), "python_random": _python_random()}
            (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for old in _checkpoints(directory)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_last(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> Checkpoint | None:
    """Put the last checkpoint's state into parameters, optimiser and the random generators.

    Returns:
        The checkpoint's step and state, or none when the directory holds no checkpoint.

    Raises:
        CheckpointError: when it does not fit the parameters, or can't be read.
    """
    found = _checkpoints(directory)
    if not found:
        return None
    path = found[-1]
    try:
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimiser.safetensors")
        generators = load_file(path / "random.safetensors")
        own = load_file(path / "stage.safetensors")
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise CheckpointError(
            f"can't read the checkpoint: {error}", where=str(path), fix="remove it to go on from the one before"
        ) from None
    load_weights(weights, parameters, path)
    _restore_optimiser(moments, parameters, optimiser)
    _restore_random(generators, record["python_random"])
    return Checkpoint(int(record["step"]), record["state"], own)


@torch.no_grad()
def load_weights(weights: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], where: Path) -> None:
    """Copy saved weights into parameters of the same names and shapes.

    Raises:
        CheckpointError: when names or shapes differ.
    """
    if weights.keys() != parameters.keys():
        odd = sorted(weights.keys() ^ parameters.keys())
        raise CheckpointError(
            f"the checkpoint is of another model: {len(odd)} parameters differ, {odd[0]!r} first", where=str(where)
        )
    for name, parameter in parameters.items():
        if weights[name].shape != parameter.shape:
            raise CheckpointError(
                f"{name!r} is {tuple(parameter.shape)} here and {tuple(weights[name].shape)} in the checkpoint",
                where=str(where),
            )
        parameter.copy_(weights[name])


def _checkpoints(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _optimiser_tensors(parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}|{key}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


@torch.no_grad()
def _restore_optimiser(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("|")
        parameter = parameters[name]
        if key == "step":  # AdamW keeps it on the CPU whatever the parameter's device, but for the fused one
            device = parameter.device if optimiser.defaults.get("fused") else torch.device("cpu")
            optimiser.state[parameter][key] = tensor.to(device).clone()
        else:  # laid out like the parameter, as the fused one demands
            optimiser.state[parameter][key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever the block draws from torch's, numpy's and Python's generators, they are afterwards as they were."""
    tensors, python = _random_tensors(), _python_random()
    try:
        yield
    finally:
        _restore_random(tensors, python)


def _random_tensors() -> dict[str, Tensor]:
    tensors = {"torch": torch.get_rng_state()}
    _, keys, position, has_gauss, gauss = np.random.get_state()
    tensors["numpy_keys"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    tensors["numpy_rest"] = torch.tensor([position, has_gauss, gauss], dtype=torch.float64)
    for i in range(torch.cuda.device_count()):
        tensors[f"cuda{i}"] = torch.cuda.get_rng_state(i)
    return tensors


def _python_random() -> list[Any]:
    version, keys, gauss = random.getstate()
    return [version, list(keys), gauss]


def _restore_random(tensors: Mapping[str, Tensor], python: list[Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    random.setstate((python[0], tuple(python[1]), python[2]))
    for i in range(torch.cuda.device_count()):
        if f"cuda{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)
