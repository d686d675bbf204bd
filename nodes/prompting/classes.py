"""Classes as the conditioning of models that were trained on them."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from functools import cache

from comfy_api.latest import io

from ...ldm_backend.config.conditioning import CLASS_CONDITIONAL, ClassConfig
from ...ldm_backend.errors import InputError, short_repr
from ..host.conditioners.classes import embedded, embedder_of, imagenet_names
from ..host.conditioning import attended_conditioning
from ..host.model import ModelPatcher
from ..host.schema import make_schema
from ..shared.inputs import model_input
from ..shared.label_maps import naming
from ..shared.wires import checked

NONE = "none"
_RETRIEVER = 208  # place of the golden retriever, the example of everybody, among the choices
_MOST_DIGITS = 9


class LDMClass(io.ComfyNode):
    """A class, or one for each image, as CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMClass",
            display_name="LDM Class",
            description=(
                "What a model of classes is to draw, for positive and negative of LDM Sampler, KSampler and other "
                "samplers. Averaging two classes draws what is between them."
            ),
            search_aliases=["ImageNet", "class label", "cin256", "CLIP Text Encode", "prompt"],
            inputs=[
                model_input(CLASS_CONDITIONAL),
                io.Combo.Input(
                    "class_name",
                    options=list(_choices()),
                    default=_choices()[_RETRIEVER],
                    tooltip=(
                        "One class for all images: the 1000 of ImageNet, which cin256 and cin256-v2 know; type a part "
                        "of the name to search. none: no class, for negative or for pictures of anything (cin256-v2)."
                    ),
                ),
                io.String.Input(
                    "classes",
                    default="",
                    optional=True,
                    tooltip=(
                        "In place of class_name: numbers or names with commas between, such as 207, goldfish, none. "
                        "One for all images, or one for each image of the batch. Models of other data take numbers."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="For positive or negative of a sampler or guider, with the same MODEL.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, class_name: str, classes: str = "") -> io.NodeOutput:
        """(N, 1, D) of N classes.

        Raises:
            InputError: A class that the model does not have.
        """
        known = embedder_of(model).config
        many = bool(classes.strip())
        numbers = _numbers_of(classes, known) if many else [_number_of_choice(class_name, known)]
        context = naming("classes" if many else "class_name", lambda: embedded(model, numbers))
        return io.NodeOutput(attended_conditioning(CLASS_CONDITIONAL, context))


@cache
def _choices() -> tuple[str, ...]:
    """The names of all classes of ImageNet behind their numbers, which the editor's search finds too."""
    return (NONE, *(f"{number} {name}" for number, name in enumerate(imagenet_names())))


def _is_imagenet(known: ClassConfig) -> bool:
    return known.pictured == len(imagenet_names())


def _number_of_choice(choice: str, known: ClassConfig) -> int | None:
    """Number of what was chosen from the list; None for no class.

    Raises:
        InputError: It is none of the list, or one of ImageNet where the model was trained on other data.
    """
    if choice not in _choices():  # a list or an object is no key
        raise InputError(
            f"class_name is {short_repr(choice)}; choose one of the list, which has {NONE} and 0 {imagenet_names()[0]} "
            f"to 999 {imagenet_names()[-1]}."
        )
    if choice == NONE:
        return None
    if not _is_imagenet(known):
        raise InputError(
            f"class_name is {choice}, of ImageNet, and the MODEL knows {known.pictured} classes of other data. Write "
            f"their numbers, 0 to {known.pictured - 1}, into classes."
        )
    return _choices().index(choice) - 1


def _numbers_of(text: str, known: ClassConfig) -> list[int | None]:
    """Numbers of classes that are written with commas between them; None for no class.

    Raises:
        InputError: A name that is none, or of which there are several.
    """
    numbers: list[int | None] = []
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(imagenet_names() if _is_imagenet(known) else ()):
        by_name.setdefault(name.lower(), []).append(number)
    for word in map(str.strip, text.split(",")):
        found = by_name.get(word.lower(), [])
        if word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS:
            numbers.append(int(word))
        elif word.lower() == NONE:
            numbers.append(None)
        elif len(found) == 1:
            numbers.append(found[0])
        else:
            several = f"the name of the classes {', '.join(map(str, found))}" if found else "no class"
            names = ", names of ImageNet's" if _is_imagenet(known) else ""
            raise InputError(
                f"classes: {short_repr(word)} is {several}. Write numbers, 0 to {known.pictured - 1}{names} or "
                f"{NONE}, with commas between them."
            )
    return numbers
