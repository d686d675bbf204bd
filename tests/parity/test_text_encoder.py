"""The text encoder beside diffusers' LDMBertModel, and under the original's names.

Tolerance: 1e-12 of the standard deviation in float64, where nothing is left but the order of sums; 1e-5 in float32.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import Tensor

from ldm_backend.checkpoints.key_maps import compvis_text_sources
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.errors import ConfigError, InputError
from ldm_backend.networks.conditioners.text_encoder import TextEncoder

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SMALL = TextConfig(vocab_size=50, max_tokens=9, embed_dim=24, layers=3, heads=2, head_dim=8)


def reference(config: TextConfig) -> Any:
    """diffusers' model, every weight random, its dropout off."""
    settings = LDMBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_tokens,
        encoder_layers=config.layers,
        encoder_ffn_dim=4 * config.embed_dim,
        encoder_attention_heads=config.heads,
        head_dim=config.head_dim,
        d_model=config.embed_dim,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LDMBertModel(settings).eval()
        for parameter in model.parameters():
            parameter.data = 0.3 * torch.randn_like(parameter) + (parameter.ndim == 1)
    return model


def tokens_of(config: TextConfig, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, config.vocab_size, (2, length), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 5, 9])
def test_what_is_encoded_is_what_diffusers_does(kind, tolerance, length):
    """Pads too, which nothing masks: the pipeline gives no mask."""
    theirs, ours = reference(SMALL).to(kind), TextEncoder(SMALL, dtype=kind)
    ours.load_state_dict(
        {k.removeprefix("model."): w for k, w in theirs.state_dict().items() if k.startswith("model.")}
    )
    tokens = tokens_of(SMALL, length)
    tokens[0, length // 2 :] = 0
    expected = theirs(tokens)[0]
    found = ours(tokens)
    assert found.shape == (2, length, 24)
    assert float((found - expected).abs().max() / expected.std()) < tolerance


def test_every_tensor_has_a_place_in_an_original_checkpoint():
    """Of text2img-large: as many numbers as were published, but for the layer of its training, which nothing reads."""
    released = TextConfig()
    network = TextEncoder(released, device="meta").state_dict()
    sources = compvis_text_sources(released.layers)
    assert sources.keys() == network.keys()
    assert len(set(sources.values())) == len(sources)
    assert sum(tensor.numel() for tensor in network.values()) == 581_994_042 - 39_098_682
    some = {
        "layers.31.self_attn.k_proj.weight": "transformer.attn_layers.layers.62.1.to_k.weight",
        "layers.31.fc1.bias": "transformer.attn_layers.layers.63.1.net.0.0.bias",
        "layers.0.final_layer_norm.weight": "transformer.attn_layers.layers.1.0.weight",
        "layer_norm.bias": "transformer.norm.bias",
    }
    assert some.items() <= sources.items()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 10, dtype=torch.int64), r"shape \(2, 10\); expected whole numbers \(N, 1 to 9\)"),
        (torch.zeros(2, 0, dtype=torch.int64), r"shape \(2, 0\)"),
        (torch.zeros(9, dtype=torch.int64), r"shape \(9,\)"),
        (torch.zeros(1, 9), r"tokens are torch.float32"),
        (torch.full((1, 9), 50), "tokens reach from 50 to 50; expected 0 to 49"),
        (torch.full((1, 9), -1), "tokens reach from -1 to -1"),
    ],
)
def test_what_are_no_tokens_is_told(tokens, message):
    with pytest.raises(InputError, match=message):
        TextEncoder(SMALL)(tokens)


@pytest.mark.parametrize("fields", [{"layers": 0}, {"embed_dim": 10**6}, {"vocab_size": 0}, {"vocab_size": 2**31}])
def test_numbers_of_a_text_encoder_are_checked(fields):
    with pytest.raises(ConfigError, match=f"conditioning: {next(iter(fields))} is"):
        TextConfig(**fields)
