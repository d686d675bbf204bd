"""`ldm evaluate`: two sets of images beside each other. Torch is imported when needed."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..terminal import result, say

if TYPE_CHECKING:
    from ..evaluation.comparison import Distance, Pairs
    from ..generation.spread import Spread

_SHOWN_KEYS = 10


def evaluate(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="A folder of PNG files, sub-folders of them or .tar shards, a .tar or .npz."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Likewise.")],
    features: Annotated[
        str | None,
        typer.Option(
            metavar="inception|pixels|CHECKPOINT",
            help="For the Frechet distance. Default: inception where torch-fidelity and its weights are, else pixels.",
        ),
    ] = None,
    distance: Annotated[bool, typer.Option("--distance/--no-distance", help="The Frechet distance.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; null is an infinite PSNR.")] = False,
) -> None:
    """Compare two sets of images: as sets, and where they share seeds or names, pair by pair."""
    from ..evaluation.comparison import compare_pairs, set_distance
    from ..evaluation.features import find_features
    from ..evaluation.image_sets import open_images
    from ..generation.spread import spread_of

    sets = open_images(a), open_images(b)
    spreads = {name: spread_of(one.source, one.keys) for name, one in zip("AB", sets, strict=True)}
    apart = set_distance(*sets, find_features(features)) if distance else None
    paired = compare_pairs(*sets)
    if apart and apart.warning:
        say(f"warning: {apart.warning}", "yellow")
    for name, spread in spreads.items() if apart else ():
        if spread and spread.least < spread.most:
            say(
                f"warning: {name} is not spread evenly over its {spread.kind}, and a distance counts each image alike: "
                f"make as many of each, with a number of seeds that {spread.count} divides",
                "yellow",
            )
    parts = (apart, paired, spreads)
    result(json.dumps(_as_json(*parts), indent=2) if as_json else _as_text(*parts))


def _as_json(
    apart: "Distance | None", paired: "Pairs | None", spreads: "Mapping[str, Spread | None]"
) -> dict[str, Any]:
    parts: dict[str, Any] = {"distance": apart and asdict(apart), "pairs": paired and asdict(paired)}
    parts["spread"] = {name.lower(): spread and asdict(spread) for name, spread in spreads.items()}
    for name in ("psnr_median", "psnr_min"):
        if parts["pairs"] and math.isinf(parts["pairs"][name]):
            parts["pairs"][name] = None
    return parts


def _as_text(apart: "Distance | None", paired: "Pairs | None", spreads: "Mapping[str, Spread | None]") -> str:
    lines = [_spread_told(name, spread) for name, spread in spreads.items() if spread]
    if apart:
        lines.append(f"{apart.name}: {apart.value:.6g} ({apart.counts[0]} and {apart.counts[1]} images)")
    if paired is None:
        lines.append("pairs: none, the sets share no seed or name")
    else:
        where = f", in {paired.worst}" if paired.worst is not None else ""
        lines += [
            f"pairs: {paired.count}, identical: {paired.identical} ({paired.identical / paired.count:.1%})",
            f"PSNR: median {paired.psnr_median:.2f} dB, least {paired.psnr_min:.2f} dB",
            f"largest difference: {paired.max_difference} of 255{where}",
        ]
        for name, keys in (("A", paired.only_in_a), ("B", paired.only_in_b)):
            if keys:
                more = ", ..." if len(keys) > _SHOWN_KEYS else ""
                lines.append(f"only in {name}: {len(keys)} ({', '.join(map(str, keys[:_SHOWN_KEYS]))}{more})")
    return "\n".join(lines)


def _spread_told(name: str, spread: "Spread") -> str:
    images = f"{spread.least}" if spread.least == spread.most else f"{spread.least} to {spread.most}"
    return f"{name}: {spread.count} {spread.kind}, images of each: {images}, cfg {spread.cfg:g}"
