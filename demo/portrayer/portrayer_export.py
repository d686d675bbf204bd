"""Writes the trained portrayer as a folder of diffusers' LDMTextToImagePipeline."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
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
SCALE, STEPS = 3.0, 20  # of guidance, and of dpmpp_2m, in the picture to be looked at

log = logging.getLogger("comfyui_ldm.demo")


def export(work: Path, out: Path) -> None:
    """Writes the averaged weights of the newest state, finished or not, with configuration, card and checksums.

    Those of UNet and encoder in float16. Portraits of some texts go into samples.png in the work folder.
    """
    state = read_state(work / "diffusion.pt")
    if not state:
        raise SystemExit(f"{work}: no diffusion.pt; train it first.")
    text, unet = ({name.removeprefix(f"{part}."): value.half() for name, value in state["ema"].items()
                   if name.startswith(f"{part}.")} for part in ("text", "unet"))  # fmt: skip
    write_json(out / "model_index.json", INDEX)
    _write_encoder(out, text)
    for part, config in (("unet", CONFIG), ("vqvae", VQ_CONFIG)):
        write_json(out / part / "config.json", config.to_dict())
    write_json(out / "scheduler" / "scheduler_config.json", SCHEDULE.to_dict())
    write_weights(out / "unet" / WEIGHTS, unet)
    write_weights(out / "vqvae" / WEIGHTS, ldm_backend.load(PORTRAITS, "cpu").first_stage.state_dict())
    write_card(out, CARD, _numbers(state, text, unet))
    log.info("wrote %s at step %d", out, state["step"])
    texts, seeds = [text for text in SHOWN for _ in range(4)], [seed for _ in SHOWN for seed in range(4)]
    model = ldm_backend.load(out, "cpu")
    images = ldm_backend.generate(model, seeds, STEPS, sampler="dpmpp_2m", prompts=texts, cfg=SCALE)
    contact_sheet(images).save(work / "samples.png")
    log.info("look at %s", work / "samples.png")


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


def _numbers(state: dict, text: dict[str, torch.Tensor], unet: dict[str, torch.Tensor]) -> dict[str, str]:
    """Returns the figures of this run for the model card."""
    return {
        "portraits": f"{COUNT:,}",
        "words": str(len(vocabulary()) - len(SPECIAL)),
        "text_parameters": f"{sum(value.numel() for value in text.values()):,}",
        "unet_parameters": f"{sum(value.numel() for value in unet.values()):,}",
        "steps": f"{state['step']:,}",
        "minutes": f"{state['used'] / 60:.0f}",
        "loss": f"{state['loss']:.3f}",
    }
