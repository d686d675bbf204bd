"""What the images of `ldm generate` are to show: texts or classes, dealt out to the seeds. Imports the errors only.

One is for all seeds; several take turns over the seeds in their order: the first seed has the first, and so on.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldm_backend.errors import is_text, printable

from ..errors import JobError

NO_CLASS = "none"
_MOST_CHARACTERS = 2000  # of a prompt: each line of the manifest repeats it
_MOST_BYTES = 2**26  # of a file of prompts
_CLASSES = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True)
class Wish:
    """What one image is to show; without text and class, whatever the model draws.

    Attributes:
        prompt: The text.
        negative: What guidance leads away from.
        number: The class; None is no class, which `of_class` tells from nothing said.
        of_class: It has a class.
        cfg: Scale of guidance.
    """

    prompt: str | None = None
    negative: str = ""
    number: int | None = None
    of_class: bool = False
    cfg: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """As an image and its line in the manifest say it."""
        if self.prompt is not None:
            return {"prompt": self.prompt, "negative": self.negative, "cfg": self.cfg}
        return {"class": self.number, "cfg": self.cfg} if self.of_class else {}


@dataclass(frozen=True)
class Wishes:
    """Of a whole job; none of a model that draws from noise alone."""

    prompts: tuple[str, ...] = ()
    classes: tuple[int | None, ...] = ()
    negative: str = ""
    cfg: float = 1.0

    def of(self, place: int) -> Wish:
        """Of the image of the seed at that place in the job."""
        if self.prompts:
            return Wish(self.prompts[place % len(self.prompts)], self.negative, cfg=self.cfg)
        if self.classes:
            return Wish(number=self.classes[place % len(self.classes)], of_class=True, cfg=self.cfg)
        return Wish()

    def to_json(self) -> dict[str, Any]:
        """What identifies a job: what is not as in jobs without."""
        return {name: value for name, value in _told(self).items() if NOTHING_WISHED[name] != value}


def _told(wishes: Wishes) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(wishes).items()}


NO_WISHES = Wishes()
NOTHING_WISHED = _told(NO_WISHES)  # what holds where a job does not name it


def parse_wishes(
    prompts: Sequence[str], file: Path | None, classes: Sequence[str], negative: str, cfg: float, images: int
) -> Wishes:
    """The wishes that options say.

    Args:
        prompts: Of --prompt.
        file: Of --prompts.
        classes: Of --class.
        negative: Of --negative.
        cfg: Of --cfg.
        images: How many there will be.

    Raises:
        JobError: Options that do not go together, more texts or classes than images, or what is none.
    """
    if sum(map(bool, (prompts, file, classes))) > 1:
        raise JobError("more than one of --prompt, --prompts and --class is given; give one of them")
    texts = list(prompts) if file is None else _lines(file)
    for where, text in [*(("--prompts" if file else "--prompt", text) for text in texts), ("--negative", negative)]:
        _check_text(where, text)
    _check_count("--prompts" if file else "--prompt", len(texts), images)
    return Wishes(tuple(texts), _classes_of(classes, images), negative, cfg)


def _check_count(where: str, given: int, images: int) -> None:
    if given > images:
        raise JobError(
            f"{where} gives {given} and --seeds {images}: some would never be drawn; expected at most as many "
            "as seeds. Give more seeds"
        )


def _classes_of(texts: Sequence[str], images: int) -> tuple[int | None, ...]:
    """Numbers, ranges with both ends, and no class, in the order in which they are written."""
    parts: list[range | tuple[None]] = []
    for text in texts:
        if text == NO_CLASS:
            parts.append((None,))
            continue
        match = _CLASSES.fullmatch(text)
        if match is None:
            raise JobError(
                f"--class is {printable(text)!r}; expected a number from 0, or {NO_CLASS}, or a range such as 0-999"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise JobError(f"--class is {text}; expected the lower number first: {last}-{first}")
        parts.append(range(first, last + 1))
    _check_count("--class", sum(map(len, parts)), images)  # before they are written out
    return tuple(one for part in parts for one in part)


def _check_text(where: str, text: str) -> None:
    if not is_text(text):
        raise JobError(f'{where}: "{printable(text, 40)}" is not UTF-8; expected a text. Write it in UTF-8')
    if len(text) > _MOST_CHARACTERS:
        raise JobError(
            f'{where}: "{printable(text, 40)}" has {len(text)} characters; expected at most {_MOST_CHARACTERS}, and '
            "the models see fewer. Make it shorter"
        )


def _lines(file: Path) -> list[str]:
    try:
        if not file.is_file():
            raise JobError(f"--prompts {file}: no file; expected one with a prompt on each line. Check the path")
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise JobError(f"--prompts {file}: more than {_MOST_BYTES} bytes; expected a prompt on each line. Split it")
        text = data.decode("utf-8-sig")
    except JobError:
        raise
    except (OSError, ValueError) as error:
        raise JobError(f"--prompts {file}: cannot be read ({printable(str(error))}); give a text in UTF-8") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        del lines[-1]
    if empty := [at for at, line in enumerate(lines, 1) if not line.strip()]:
        raise JobError(f"--prompts {file}: line {empty[0]} is empty; expected a prompt on each line. Remove it")
    if not lines:
        raise JobError(f"--prompts {file}: it is empty; expected a prompt on each line. Write some")
    return lines
