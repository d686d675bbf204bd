"""Whether a model can draw what is wished for, told before it is loaded. Imports ldm_backend and wishes."""

import logging

from ldm_backend.checkpoints.checkpoint import Checkpoint
from ldm_backend.config.conditioning import ClassConfig, TextConfig, purpose_of
from ldm_backend.contexts import build_tokeniser
from ldm_backend.errors import short_repr
from ldm_backend.networks.conditioned import check_cfg
from ldm_backend.texts.tokeniser import warnings_of

from ..errors import JobError
from .wishes import NO_CLASS, Wishes

logger = logging.getLogger("comfyui_ldm")

_MOST_TOLD = 10  # prompts whose warnings are said one by one


def check_wishes(checkpoint: Checkpoint, wishes: Wishes) -> None:
    """Refuse what the model does not draw, and say in the log what it will not see of the texts.

    Args:
        checkpoint: Of the model.
        wishes: Of the job.

    Raises:
        JobError: Something is missing, too much, or a class that the model does not have.
        LDMError: cfg is no number, or a model of texts has no tokeniser here.
    """
    check_cfg(wishes.cfg)
    config = checkpoint.config
    one, does = config.conditioning, f"this model {purpose_of(config.task)}"
    if isinstance(one, TextConfig):
        if not wishes.prompts:
            raise JobError(f"--prompt or --prompts is needed, and --class is not: {does}. Give a text")
        _tell_what_is_not_seen(checkpoint, wishes)
    elif isinstance(one, ClassConfig):
        _check_classes(one, wishes, does)
    elif wishes.to_json():
        raise JobError(
            f"--{_OPTIONS[next(iter(wishes.to_json()))]} is given, and {does}. Leave it out, or give "
            "a model of texts or of classes"
        )


_OPTIONS = {"prompts": "prompt", "classes": "class", "negative": "negative", "cfg": "cfg"}


def _check_classes(one: ClassConfig, wishes: Wishes, does: str) -> None:
    most = one.pictured - 1
    known = f"0 to {most}" + (f", or {NO_CLASS}" if one.last_is_none else "")
    if not wishes.classes or wishes.prompts or wishes.negative:
        raise JobError(f"--class is needed, and no text: {does}. Give a number from {known}")
    for number in wishes.classes:
        if (number is None and not one.last_is_none) or (number is not None and number > most):
            raise JobError(
                f"--class is {NO_CLASS if number is None else number}; this model has {known}. Give one of them"
            )
    if wishes.cfg != 1 and not one.last_is_none:
        raise JobError(
            f"--cfg is {short_repr(wishes.cfg)}; expected 1, as this model has no class that is none, which guidance "
            "starts from. Leave it out"
        )


def _tell_what_is_not_seen(checkpoint: Checkpoint, wishes: Wishes) -> None:
    tokeniser = build_tokeniser(checkpoint.config, checkpoint.vocabulary, str(checkpoint.path))
    if tokeniser is None:
        return
    told = 0
    for text in dict.fromkeys((*wishes.prompts, wishes.negative)):
        warnings = warnings_of(text, tokeniser(text))
        told += bool(warnings)
        if told <= _MOST_TOLD:
            for warning in warnings:
                logger.warning("%s", warning)
    if told > _MOST_TOLD:
        logger.warning("%d more prompts are too long, or have words that the model does not know.", told - _MOST_TOLD)
