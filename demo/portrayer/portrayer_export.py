"""Writes the trained portrayer as a folder of diffusers' LDMTextToImagePipeline."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from judge import SAMPLER, STEPS, table
from portraits import contact_sheet
from portrayer_captions import MAX_TOKENS, SPECIAL, vocabulary
from portrayer_data import COUNT, PORTRAITS
from portrayer_diffusion import SCHEDULE
from portrayer_model import CONFIG, TEXT
from train_common import read_state
from train_export import WEIGHTS, write_card, write_json, write_text, write_weights
from train_first_stage import CONFIG as VQ_CONFIG

import ldm_backend
from ldm_backend.texts.bert_json import text_config_to_json

CARD = Path(__file__).with_name("portrayer_card.md")
INDEX = {
    "_class_name": "LDMTextToImagePipeline",
    "bert": ["latent_diffusion", "LDMBertModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vqvae": ["diffusers", "VQModel"],
}
SHOWN = (
    "curly red hair, glasses, blue background",
    "bald, full beard, yellow top, grey background",
    "long blond hair, smiling, earrings, green clothes",
    "black afro, dark skin, open mouth, pink background",
)
SCALE = 3.0  # of guidance in the picture to be looked at

log = logging.getLogger("comfyui_ldm.demo")


def export(work: Path, out: Path) -> None:
    """Writes the averaged weights of the newest state, finished or not, with configuration, card and checksums.

    The card has what the judge says of its portraits; those of some texts go into samples.png in the work folder.
    """
    state = read_state(work / "diffusion.pt")
    if not state:
        raise SystemExit(f"{work}: no diffusion.pt; train it first.")
    write_parts(out, state["ema"])
    log.info("wrote %s at step %d", out, state["step"])
    texts, seeds = [text for text in SHOWN for _ in range(4)], [seed for _ in SHOWN for seed in range(4)]
    model = ldm_backend.load(out, "cpu")
    images = ldm_backend.generate(model, seeds, STEPS, sampler=SAMPLER, prompts=texts, cfg=SCALE)
    contact_sheet(images).save(work / "samples.png")
    log.info("look at %s", work / "samples.png")
    write_card(out, CARD, _numbers(read_state(work / "words.pt"), state) | {"table": table(model, work).rstrip()})


def write_parts(out: Path, weights: dict[str, torch.Tensor]) -> None:
    """Writes configuration and weights of a Portrayer, in float16, with the first stage of the portraits."""
    write_json(out / "model_index.json", INDEX)
    _write_encoder(out, _part_of(weights, "text"))
    for part, config in (("unet", CONFIG), ("vqvae", VQ_CONFIG)):
        write_json(out / part / "config.json", config.to_dict())
    write_json(out / "scheduler" / "scheduler_config.json", SCHEDULE.to_dict())
    write_weights(out / "unet" / WEIGHTS, _part_of(weights, "unet"))
    write_weights(out / "vqvae" / WEIGHTS, ldm_backend.load(PORTRAITS, "cpu").first_stage.state_dict())


def _part_of(weights: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    start = f"{part}."
    return {name.removeprefix(start): value.half() for name, value in weights.items() if name.startswith(start)}


def _write_encoder(out: Path, text: dict[str, torch.Tensor]) -> None:
    """Writes encoder and tokenizer under the names of diffusers' LDMBertModel, whose last layer nothing here uses."""
    config = text_config_to_json(TEXT) | {"pad_token_id": SPECIAL.index("[PAD]"), "scale_embedding": False}
    config["torch_dtype"] = "float32"  # to compute in; without it transformers takes the format of the file
    zeros = {"weight": torch.zeros(TEXT.vocab_size, TEXT.embed_dim), "bias": torch.zeros(TEXT.vocab_size)}
    write_json(out / "bert" / "config.json", config)
    write_weights(
        out / "bert" / "model.safetensors",
        {f"model.{name}": value for name, value in text.items()}
        | {f"to_logits.{name}": value.half() for name, value in zeros.items()},
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_TOKENS}
    write_json(out / "tokenizer" / "tokenizer_config.json", settings | dict(zip(names, SPECIAL, strict=True)))
    write_text(out / "tokenizer" / "vocab.txt", "".join(f"{word}\n" for word in vocabulary()))


def _numbers(words: dict, state: dict) -> dict[str, str]:
    """Returns the figures of both trainings for the model card."""
    sizes = {part: sum(value.numel() for value in _part_of(state["ema"], part).values()) for part in ("text", "unet")}
    return {
        "portraits": f"{COUNT:,}",
        "words": str(len(vocabulary()) - len(SPECIAL)),
        "word_steps": f"{words['step']:,}",
        "word_minutes": f"{words['used'] / 60:.0f}",
        "text_parameters": f"{sizes['text']:,}",
        "unet_parameters": f"{sizes['unet']:,}",
        "steps": f"{state['step']:,}",
        "minutes": f"{state['used'] / 60:.0f}",
    }
