"""Figures of the results: ratios to the peers, and how cost grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, THEIRS = "#1b6ca8", "#d1495b"


def available() -> bool:
    """Whether matplotlib is installed; results can be written down without it."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw_ratios(labels: Sequence[str], faster: Sequence[float], memory: Sequence[float], path: Path) -> Path:
    """Bars: how many times faster than the peer, and the share of its memory.

    Args:
        labels: what was compared.
        faster: the peer's time over ours.
        memory: our peak memory over the peer's.
        path: of the PNG.
    """
    figure, axes = _new(2, width=5.2, height=1.2 + 0.45 * len(labels))
    for axis, values, title, colour in (
        (axes[0], faster, "times faster than the peer", OURS),
        (axes[1], memory, "share of the peer's peak memory", THEIRS),
    ):
        bars = axis.barh(range(len(labels)), values, color=colour, height=0.6)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.axvline(1.0, color="#444444", linewidth=0.8)
        axis.set_yticks(range(len(labels)), labels if axis is axes[0] else [""] * len(labels), fontsize=8)
        axis.set_xlim(0.0, 1.15 * max([1.0, *values]))
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
    return _save(figure, path)


def draw_growth(panels: Sequence[dict[str, Any]], path: Path) -> Path:
    """A panel each: `{"title", "x", "y", "lines": {name: [(x, y), ...]}}`, both axes from 0."""
    figure, axes = _new(len(panels), width=4.2, height=3.2)
    for axis, panel in zip(axes, panels, strict=True):
        for (name, points), colour in zip(panel["lines"].items(), (OURS, THEIRS), strict=False):
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=name)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(panel["x"], fontsize=8)
        axis.set_ylabel(panel["y"], fontsize=8)
        axis.set_title(panel["title"], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(frameon=False, fontsize=7)
    return _save(figure, path)


def _new(columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return path
