"""Tells whether portraits show what their texts say: a small network that was trained on drawn portraits alone.

Its own accuracy is measured on drawn portraits that it has not seen, as they are and through the first stage, which
every picture of the model has passed. Then it judges portraits of the model: each text names three traits, and counts
once for each of them. A trait is right where the judge takes it for the named one of all its values.

Usage:
    python demo/portrayer/judge.py --work WORK --model demo/text-portraits-128 --out table.md --sheet sheet.png
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DEMO), str(DEMO.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from judge_network import Judge, labels_of, train_judge  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from portrayer_captions import TRAITS  # noqa: E402
from portrayer_data import COUNT, FIRST, PORTRAITS  # noqa: E402
from train_data import load_portraits, to_tensor  # noqa: E402

import ldm_backend  # noqa: E402
from ldm_backend.pipeline import LatentDiffusion  # noqa: E402
from ldm_backend.views.images import to_uint8  # noqa: E402

SCALES = (1.0, 2.0, 3.0, 5.0, 7.0)
HELD_OUT = 512  # seeds after those of the training
TEXTS, NAMED = 96, 3  # texts, and traits that each names
SAMPLER, STEPS = "dpmpp_2m", 20
_AT_ONCE = 16
_COMBINED = 4000  # portraits that say which traits go together
WORDS = {  # what a text says for a value of a trait
    "style": {
        "short": "short hair",
        "side": "side parted hair",
        "fringe": "hair with a fringe",
        "long": "long hair",
        "bob": "bob",
        "curly": "curly hair",
        "afro": "afro",
        "bun": "hair in a bun",
        "receding": "receding hair",
        "bald": "bald",
    },
    "hair": {value: f"{value} hair" for value in ("black", "brown", "red", "blond", "grey", "white")},
    "skin": {value: f"{value} skin" for value in ("fair", "tan", "brown", "dark")},
    "eyes": {value: f"{value} eyes" for value in ("brown", "green", "blue", "grey")},
    "glasses": {"yes": "glasses", "no": "no glasses"},
    "beard": {"full": "full beard", "moustache": "moustache", "none": "no beard"},
    "earrings": {"yes": "earrings", "no": "no earrings"},
    "smile": {"smiling": "smiling", "serious": "serious"},
    "mouth": {"open": "open mouth", "closed": "closed mouth"},
    "clothes": {
        value: f"{value} top" for value in ("blue", "red", "white", "black", "green", "yellow", "purple", "pink")
    },
    "neckline": {"round": "crew neck", "vee": "v neck", "collar": "collar", "high": "turtleneck"},
    "backdrop": {
        value: f"{value} background"
        for value in ("blue", "beige", "green", "purple", "grey", "slate", "yellow", "pink")
    },
}
SHEET = (
    "curly red hair, glasses, blue background",
    "bald, full beard, yellow top, grey background",
    "long blond hair, smiling, earrings, green top",
    "black afro, dark skin, open mouth, pink background",
    "short grey hair, glasses, moustache, red top",
    "brown hair in a bun, earrings, purple background",
    "white hair with a fringe, blue eyes, black turtleneck",
    "",
)

log = logging.getLogger("comfyui_ldm.demo")


def questions(count: int) -> list[tuple[str, dict[str, str]]]:
    """Returns texts that name three traits each, and what they name; all values of a trait are as likely.

    Only what some drawn portrait has together: nobody has long hair and a beard there.
    """
    rng, known = np.random.default_rng(31), labels_of(FIRST, _COMBINED)
    asked: list[tuple[str, dict[str, str]]] = []
    while len(asked) < count:
        names = [str(name) for name in rng.choice(list(WORDS), NAMED, replace=False)]
        named = {name: str(rng.choice(list(WORDS[name]))) for name in names}
        if any(named.items() <= one.items() for one in known):
            asked.append((", ".join(WORDS[name][value] for name, value in named.items()), named))
    return asked


@torch.no_grad()
def right_of(judge: Judge, images: np.ndarray, told: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Returns of each trait whether the judge sees its told value, for each picture for which one is told."""
    right: dict[str, list[bool]] = {name: [] for name in TRAITS}
    for start in range(0, len(images), 64):
        seen = judge(to_tensor(images[start : start + 64]))
        for row, named in enumerate(told[start : start + 64]):
            for name, value in named.items():
                if value in TRAITS[name]:
                    right[name].append(int(seen[name][row].argmax()) == TRAITS[name].index(value))
    return right


@torch.no_grad()
def through_first_stage(images: np.ndarray) -> np.ndarray:
    """Returns uint8 portraits as the first stage gives them back."""
    stage = ldm_backend.load(PORTRAITS, "cpu").first_stage
    parts = (to_tensor(images[start : start + 32]) for start in range(0, len(images), 32))
    return np.concatenate([to_uint8(stage.decode(stage.encode(part))) for part in parts])


def drawn(model: LatentDiffusion, texts: Sequence[str], seeds: Sequence[int], scale: float) -> np.ndarray:
    """Returns a portrait for each text and its seed, uint8 (N, H, W, 3)."""
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(texts), _AT_ONCE)]
    made = [
        ldm_backend.generate(model, seeds[part], STEPS, sampler=SAMPLER, prompts=texts[part], cfg=scale)
        for part in parts
    ]
    return np.concatenate(made)


def table(model: LatentDiffusion, work: Path, texts: int = TEXTS) -> str:
    """Returns the accuracies in Markdown, of so many texts at each scale; trains the judge if there is none."""
    judge = train_judge(work)
    truth, portraits = labels_of(FIRST + COUNT, HELD_OUT), load_portraits(work, FIRST + COUNT, HELD_OUT)
    own, blurred = right_of(judge, portraits, truth), right_of(judge, through_first_stage(portraits), truth)
    asked = questions(texts)
    columns: list[dict[str, list[bool]]] = []
    for scale in SCALES:
        images = drawn(model, [text for text, _ in asked], range(1000, 1000 + texts), scale)
        columns.append(right_of(judge, images, [named for _, named in asked]))
        log.info("judged scale %g: %s", scale, _percent(sum(columns[-1].values(), [])))
    heads = ["trait", "values", "texts", "judge: drawn", "judge: first stage", *(f"cfg {scale:g}" for scale in SCALES)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, values in TRAITS.items():
        cells = [name, len(values), len(columns[0][name]), *map(_percent, (own[name], blurred[name]))]
        lines.append(f"| {' | '.join(map(str, [*cells, *(_percent(column[name]) for column in columns)]))} |")
    whole = [_percent(sum(each.values(), [])) for each in (own, blurred, *columns)]
    lines.append(f"| **all** | | {sum(map(len, columns[0].values()))} | {' | '.join(whole)} |")
    return "\n".join(lines) + "\n"


def _percent(right: list[bool]) -> str:
    return f"{100 * np.mean(right):.0f} %"


def sheet(model: LatentDiffusion, side: int = 128) -> Image.Image:
    """Returns a row of portraits for each text of SHEET, one for each scale, of the same seed."""
    bar, space = 16, 2
    picture = Image.new("RGB", (len(SCALES) * (side + space), len(SHEET) * (side + bar)), "white")
    pen = ImageDraw.Draw(picture)
    for column, scale in enumerate(SCALES):
        images = drawn(model, SHEET, range(len(SHEET)), scale)
        for row, image in enumerate(images):
            picture.paste(Image.fromarray(image), (column * (side + space), row * (side + bar) + bar))
    for row, text in enumerate(SHEET):
        pen.text((2, row * (side + bar) + 2), text or "(nothing)", fill="black")
    return picture


def main() -> None:
    """Measures a model, and shows it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=DEMO / ".train-portrayer", help="portraits and the judge")
    parser.add_argument("--model", type=Path, default=DEMO / "text-portraits-128", help="folder of the portrayer")
    parser.add_argument("--texts", type=int, default=TEXTS, help="how many are judged at each cfg")
    parser.add_argument("--out", type=Path, help="table to write")
    parser.add_argument("--sheet", type=Path, help="picture to write: rows of texts, a column for each cfg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    model = ldm_backend.load(args.model, "cpu")
    if args.sheet:
        sheet(model).save(args.sheet)
    if args.out:
        args.out.write_text(table(model, args.work, args.texts), encoding="utf-8")


if __name__ == "__main__":
    main()
