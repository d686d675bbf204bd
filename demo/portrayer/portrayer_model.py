"""The network of the portrayer: an encoder of captions and a UNet that attends to it, and what both begin with."""

from __future__ import annotations

from dataclasses import replace

import torch
from portrayer_captions import MAX_TOKENS, TRAITS, UNSAID, vocabulary
from portrayer_data import PORTRAITS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_diffusion import CONFIG as PORTRAITS_CONFIG

import ldm_backend
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.networks.conditioners.text_encoder import TextEncoder
from ldm_backend.networks.unet import UNet

TEXT = TextConfig(vocab_size=len(vocabulary()), max_tokens=MAX_TOKENS, embed_dim=128, layers=2, heads=4, head_dim=32)
CONFIG = replace(
    PORTRAITS_CONFIG,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=TEXT.embed_dim,
)
PASSED_ON = 0.05  # how much of what it reads a transformer writes, beside its attention; see `_attended`

LISTENING = 6.0  # how far the scores of first tokens lie above those of the 76 others; the logarithm of 76 is 4.3


class Reader(nn.Module):
    """The encoder, and a classifier of each trait at the first token, which no picture needs."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(TEXT)
        for embedding in (self.text.embed_tokens, self.text.embed_positions):
            nn.init.normal_(embedding.weight, std=0.3)
        self.heads = nn.ModuleList(nn.Linear(TEXT.embed_dim, len(values)) for values in TRAITS.values())

    def forward(self, tokens: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Maps tokens (N, T) to the context (N, T, D), and to the loss of told values (N, traits) at the first."""
        context = self.text(tokens)
        losses = [
            cross_entropy(head(context[:, 0]).float(), values, ignore_index=UNSAID, reduction="sum")
            for head, values in zip(self.heads, told.unbind(1), strict=True)
        ]
        return context, torch.stack(losses).sum() / (told != UNSAID).sum().clamp_min(1)


class Portrayer(Reader):
    """Both parts, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(CONFIG)


def first_weights(reader: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """Returns the weights to begin with: those of portraits-128 where they fit, and an encoder that can read.

    Args:
        reader: The weights of a Reader, of `portrayer_words`.
        tokens: (N, T) of some captions.
    """
    torch.manual_seed(0)
    model = Portrayer()
    model.load_state_dict(reader, strict=False)
    weights, known = model.state_dict(), ldm_backend.load(PORTRAITS, "cpu").unet.state_dict()
    for name, value in known.items():
        if f"unet.{name}" in weights and ".attentions." not in name:
            weights[f"unet.{name}"] = value
    with torch.no_grad():
        context = model.text(tokens)
    for place in {name.split("group_norm.")[0] for name in known if "attentions" in name and "group_norm" in name}:
        old = {name.removeprefix(place): value for name, value in known.items() if name.startswith(place)}
        weights |= {f"unet.{place}{name}": value for name, value in _attended(old).items()}
        listen(weights, f"unet.{place}transformer_blocks.0.", context)
    return weights


def listen(weights: dict[str, Tensor], block: str, context: Tensor) -> None:
    """Lets a block attend to the first token of a context (N, T, D) about as much as to all others together.

    All queries have a part in common, by a bias of the norm before them, and the keys of first tokens have it too.
    """
    first, others = context[:, 0].mean(0), context[:, 1:].mean((0, 1))
    apart = first - others
    query, key, bias = (weights[f"{block}{name}"] for name in ("attn2.to_q.weight", "attn2.to_k.weight", "norm2.bias"))
    bias.copy_(torch.randint(2, bias.shape).float() * 2 - 1)
    shared = (query @ bias).unflatten(0, (-1, CONFIG.head_dim(len(bias))))  # of each head
    scale = LISTENING * shared.shape[1] ** 0.5 / (shared.square().sum(1, keepdim=True) * apart.square().sum())
    key.add_(torch.outer((scale * shared).flatten(), apart))


def _attended(old: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a transformer that does about what a plain attention did.

    A transformer has no biases in its projections. That of the keys has no influence, that of the values moves all
    outputs alike, and that of the queries is what a bias of the norm makes in front of the projection.
    """
    width = len(old["group_norm.weight"])
    one = torch.eye(width)
    block = "transformer_blocks.0."
    value, out = old["to_v.weight"], old["to_out.0.weight"]
    shift = torch.linalg.lstsq(old["to_q.weight"], old["to_q.bias"][:, None], rcond=0.05, driver="gelsd").solution[:, 0]
    return {
        "norm.weight": old["group_norm.weight"],
        "norm.bias": old["group_norm.bias"],
        "proj_in.weight": PASSED_ON * one[:, :, None, None],
        "proj_in.bias": torch.zeros(width),
        f"{block}norm1.weight": torch.ones(width),
        f"{block}norm1.bias": shift,
        f"{block}attn1.to_q.weight": old["to_q.weight"],
        f"{block}attn1.to_k.weight": old["to_k.weight"],
        f"{block}attn1.to_v.weight": value,
        f"{block}attn1.to_out.0.weight": out,
        f"{block}attn1.to_out.0.bias": old["to_out.0.bias"] + out @ (old["to_v.bias"] - value @ shift),
        f"{block}norm2.weight": torch.ones(width),
        f"{block}norm2.bias": torch.zeros(width),
        f"{block}attn2.to_out.0.weight": torch.zeros(width, width),
        f"{block}attn2.to_out.0.bias": torch.zeros(width),
        f"{block}ff.net.2.weight": torch.zeros(width, 4 * width),
        f"{block}ff.net.2.bias": torch.zeros(width),
        "proj_out.weight": one[:, :, None, None],
        "proj_out.bias": torch.zeros(width),
    }
