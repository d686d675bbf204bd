"""What is known of released weights: hashes of files and tensors, and the pixels that a model must draw.

Imports only config and presets. Nobody of this project has had the weights of CompVis/ldm-celebahq-256: the hashes of
its files are those that its pages on the hub show, and no hash of its tensors is recorded. Reports of `ldm verify` on
files with these hashes are what would fill the gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config.model import LDMConfig, UNetConfig, VQConfig
from ..config.presets import CELEBAHQ_256, PRESETS

# SHA-256 of a file -> what it is. Source: huggingface.co/CompVis/ldm-celebahq-256/blob/<commit>/<file>.
_HUB = "CompVis/ldm-celebahq-256"
KNOWN_FILES = {
    "33cb6f7c80ab207d68046b1594332ab34d64db44c10829e351c0ab17a28187ae": f"{_HUB}, UNet since 321d836, 20 July 2022",
    "051f55600f2ae1a018b1c1e4c7e3c7ac81aaff9bb1cb35bb646aed1e30e16ad3": f"{_HUB}, VQ-f4 since 03978f2, 28 July 2022",
    "e383b55bf3faeffafffb49286ae11c41611557c6c2b0dfbf09a0d3ea94590ae8": f"{_HUB}, VQ-f4 of 9379e34, 20 July 2022",
    "c4ccc0296740806ec6192babc03592ae0f7774f5564f11a1347b4061100218f6": "demo portraits-128, UNet",
    "512e6dfb88fc9e4aa5533b429023a4e48f89cc1e31b4de63452dff4e975b598b": "demo portraits-128, first stage",
}

# `verification.tensor_digest` -> whose weights these are, in whatever layout they came.
KNOWN_TENSORS = {
    "5926375a645e22f76d2627cc8cd3339195c70333ed15991f8da704f38c423fed": "demo portraits-128, UNet",
    "db5d854e114ba4be7fe0b0cf7cd1eb11bbb9e5b8e7009f693c369b0d68b661d7": "demo portraits-128, first stage",
}


@dataclass(frozen=True)
class Reference:
    """The last 3x3 pixels of the last channel, 0..1, that the weights of a release must draw; see `verification`.

    Attributes:
        name: Of the release.
        config: Models of this configuration are compared.
        pixels: Row by row.
        tolerance: What agrees differs by less.
        source: Who recorded them.
    """

    name: str
    config: LDMConfig
    pixels: tuple[float, ...]
    tolerance: float
    source: str


# Values and tolerance of LDMPipelineIntegrationTests in diffusers, deleted in December 2023: the only published pixels
# of this model whose seed, steps and noise are known.
_CELEBAHQ = Reference(
    name="celebahq-256",
    config=CELEBAHQ_256,
    pixels=(0.4399, 0.44975, 0.46825, 0.474, 0.4359, 0.4581, 0.45095, 0.4341, 0.4447),
    tolerance=1e-2,
    source="published with diffusers",
)

# Recorded with this code on a CPU in fp32, where diffusers' LDMPipeline with the scale factor 1 draws the same to 1e-6
# (tests/parity/test_verify.py). The tolerance leaves room for bf16, which moves them by 8e-4.
_DEMO = Reference(
    name="portraits-128",
    config=LDMConfig(
        unet=UNetConfig(sample_size=32, block_out_channels=(48, 64, 96, 128), layers_per_block=1, norm_num_groups=16),
        vq=VQConfig(
            sample_size=128,
            block_out_channels=(16, 32, 64),
            layers_per_block=1,
            num_vq_embeddings=2048,
            norm_num_groups=8,
        ),
    ),
    pixels=(0.72480, 0.72041, 0.71474, 0.71979, 0.71729, 0.71367, 0.73007, 0.73354, 0.69660),
    tolerance=2e-3,
    source="recorded by this project",
)
REFERENCES = (_CELEBAHQ, _DEMO)


def reference_for(config: LDMConfig, model: str | None = None) -> Reference | None:
    """What a model of this configuration must draw, if that is known.

    The scale factor is not compared: one that is not the release's is a reason to fail, not to pass unseen.

    Args:
        config: Of the checkpoint.
        model: A name of `presets.PRESETS`, where somebody said which model it is. FFHQ and LSUN-Bedrooms have the
            configuration of CelebA-HQ, but nobody published pixels of theirs.
    """
    plain = replace(config, vq=replace(config.vq, scale_factor=1.0))
    found = next((reference for reference in REFERENCES if reference.config == plain), None)
    return None if found and model in PRESETS and model != found.name else found
