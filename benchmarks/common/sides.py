"""What the scripts with two sides share: the end of their command lines, the clock on our own steps, which dtype they
compute in, and how much of the output matrix's second product."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from common.machine import synchronize
from peers.computed_dtypes import note_dtypes


def dispatch(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    *,
    prepare: Callable[[], Any],
    ours: Callable[[], dict[str, Any]],
    compare: Callable[[argparse.Namespace], None],
) -> None:
    """Do what `arguments.action` says, on `arguments.work` as an absolute path; what our side found is printed as JSON.

    Raises:
        SystemExit: `prepare` without --data, or `compare` without --peer-python.
    """
    arguments.work = arguments.work.absolute()
    if arguments.action == "prepare":
        if arguments.data is None:
            parser.error("prepare needs --data")
        prepare()
    elif arguments.action == "ours":
        print(json.dumps(ours()))
    else:
        if arguments.peer_python is None:
            parser.error("compare needs --peer-python")
        compare(arguments)


def device_memory(device: str) -> dict[str, int]:
    """`{"peak_cuda_bytes": ...}`, the most that tensors took of a GPU in this process; nothing on a CPU."""
    import torch

    return {"peak_cuda_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}


_REPLACED: list[tuple[Any, str, Any]] = []


def replace(owner: Any, name: str, watched: Any) -> None:
    """Put what watches in the place of burnish's own, for the length of the process or until `restore`."""
    _REPLACED.append((owner, name, getattr(owner, name)))
    setattr(owner, name, watched)


def restore() -> None:
    """Let go of all that is watched, where a process goes on afterwards."""
    while _REPLACED:
        setattr(*_REPLACED.pop())


def watch_dtypes(seen: set[str]) -> None:
    """`note_dtypes` of the training passes of every backbone that burnish's stages make from here on."""
    from burnish.models.roles import Backbone

    made = Backbone.__init__

    def noted(backbone: Backbone, model: Any, **settings: Any) -> None:
        made(backbone, model, **settings)
        note_dtypes(model, seen, training=True)

    replace(Backbone, "__init__", noted)


class HeadProducts:
    """How much of the output matrix's product in backward burnish computes: columns of the vocabulary that are
    negligible for all tokens of a tile are left out of it (burnish.ops.tiles)."""

    def __init__(self) -> None:
        self.computed = self.whole = 0

    def watch(self) -> None:
        """Count from here on. What is computed stays as it is."""
        from burnish.ops import tiles

        choose = tiles.columns_with_mass

        def counted(p: Any, total: Any, hidden: Any) -> Any:
            columns = choose(p, total, hidden)
            self.computed += p.shape[0] * (p.shape[1] if columns is None else columns.numel())
            self.whole += p.numel()
            return columns

        replace(tiles, "columns_with_mass", counted)

    def share(self) -> float | None:
        """Computed over whole; none where there was no such product, as in a reward model."""
        return self.computed / self.whole if self.whole else None


def stamp_steps(ends: list[float], *, every: int = 1) -> None:
    """Note in `ends` when each optimiser step of burnish's stages is logged, or every so many-th. What they compute
    stays as it is."""
    from burnish.stages.run import Run

    log = Run.log

    def stamped(run: Run, values: dict[str, Any]) -> None:
        if "learning_rate" in values and values["step"] % every == 0:  # an optimiser step
            synchronize()
            ends.append(time.perf_counter())
        log(run, values)

    replace(Run, "log", stamped)
