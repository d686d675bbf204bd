"""Tables and plot of speed.py, from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import spread

RATIO = "diffusers / ours"


@dataclass(frozen=True)
class Compared:
    """One measure of both sides.

    Args:
        name: what was measured.
        ours: numbers of our side, in the unit of the table or seconds.
        diffusers: as many; those with the same index are neighbours in time.
        form: how a number is printed.
        same: how near what both made is, if that was compared.
        images: in each run; above 0, the numbers are seconds and are printed as images per second.
    """

    name: str
    ours: Sequence[float]
    diffusers: Sequence[float]
    form: str = ".2f"
    same: str = ""
    images: int = 0

    def printed(self, values: Sequence[float]) -> str:
        """Numbers of one side in the unit of the table."""
        return spread([self.images / value for value in values] if self.images else values, self.form)

    @property
    def ratios(self) -> list[float]:
        """Of diffusers to ours, pair by pair."""
        return [their / mine for mine, their in zip(self.ours, self.diffusers, strict=True)]


@dataclass(frozen=True)
class Section:
    """A heading with its table.

    Args:
        title: heading.
        lines: Markdown.
        bars: what the plot shows of it.
    """

    title: str
    lines: list[str]
    bars: list[Compared] = field(default_factory=list)


def compared_table(rows: Sequence[Compared], unit: str) -> list[str]:
    """A line for each measure: median (least to most) of both sides and of the ratio."""
    lines = [f"| | pairs | ours, {unit} | diffusers, {unit} | {RATIO} | outputs |", "|---|---:|---|---|---|---|"]
    for row in rows:
        ours, theirs = row.printed(row.ours), row.printed(row.diffusers)
        lines.append(f"| {row.name} | {len(row.ours)} | {ours} | {theirs} | {spread(row.ratios, '.2f')} | {row.same} |")
    return lines


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """How near two outputs are.

    Args:
        ours: float array, or uint8 pictures.
        theirs: likewise, of the same shape.
    Returns: for pictures the share of levels that are more than one apart, else the largest difference over the
        standard deviation of `theirs`.
    """
    if theirs.dtype == np.uint8:
        apart = np.abs(ours.astype(int) - theirs.astype(int)) > 1
        return f"{100 * apart.mean():.2f} % of levels more than 1 apart"
    return f"{np.abs(ours - theirs).max() / theirs.std():.0e} of std apart at most"


def scaled(seconds: float, loop: float, steps: int, wanted: int) -> float:
    """Seconds of an image of `wanted` steps, from one of `steps`: the loop grows with them, the rest does not.

    Args:
        seconds: of the whole image.
        loop: seconds of its steps.
        steps: that it had.
        wanted: steps of the image to predict.
    """
    return seconds + loop * (wanted / steps - 1.0)


def report(sections: Sequence[Section], head: str, foot: str, plot: str | None) -> str:
    """The Markdown file.

    Args:
        sections: in order.
        head: how it was measured.
        foot: where and with what.
        plot: name of the picture beside the file, if there is one.
    """
    lines = ["# Speed and memory, side by side with diffusers", "", head, ""]
    if plot:
        lines += [f"![{RATIO} of each part]({plot})", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *section.lines, ""]
    return "\n".join([*lines, foot, ""])


def draw_plot(rows: Sequence[Compared], file: Path) -> None:
    """A bar for each ratio, with its least and most."""
    # Here, so that measuring needs no matplotlib, which only the extra `bench` installs.
    import matplotlib as mpl  # pyright: ignore[reportMissingImports]

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.42 * len(rows)))
    for place, row in enumerate(rows):
        low, middle, high = np.quantile(row.ratios, (0.0, 0.5, 1.0))
        axes.barh(
            place, middle, 0.62, color="tab:blue", xerr=[[middle - low], [high - middle]], ecolor="0.25", capsize=3
        )
        axes.annotate(
            f"{middle:.2f}", (high, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9
        )  # fmt: skip
    axes.axvline(1.0, color="0.3", linewidth=1.0)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=f"{RATIO}, median with least and most; 1 is equal, more is better for ours")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
