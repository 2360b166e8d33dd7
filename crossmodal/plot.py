"""Recall against latency, as an index was measured, drawn to a file."""

from __future__ import annotations

from pathlib import Path

from vector_index import Manifest


def draw_curves(manifest: Manifest, path: Path) -> None:
    """Draw the curve of each collection and each modality of queries, with the point that was chosen.

    Raises:
        ValueError: there is nothing to draw, or matplotlib is missing, or it does not know the file's ending.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'crossmodal[plot]'") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="milliseconds a query, one thread", ylabel="recall@10 against exact search")
    drawn = False
    for name, stamp in (("pictures", manifest.images.index), ("captions", manifest.texts.index)):
        for asked, point in stamp.queries.items():
            curve = point.curve or [point]
            (line,) = axes.plot(
                [each.ms for each in curve], [each.recall_at_10 for each in curve], ".-",
                label=f"{name} in {stamp.kind}, asked with {asked}",
            )  # fmt: skip
            axes.plot([point.ms], [point.recall_at_10], "o", markersize=10, fillstyle="none", color=line.get_color())
            drawn = True
    if not drawn:
        raise ValueError("--plot: the indexes are exact or were not measured by modality: there is no curve to draw")
    axes.axhline(manifest.target_recall, color="0.7", linestyle="--")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
