"""The released models of the family, for checkpoints that come without a configuration. Imports only config.

Source: CompVis/latent-diffusion models/ldm/*/config.yaml. `scale_factor` of Churches is a buffer of its checkpoint.
"""

from __future__ import annotations

from .model import KLConfig, LDMConfig, ScheduleConfig, UNetConfig

CELEBAHQ_256 = LDMConfig()

# 4 latent channels at 32x32; the time embedding scales and shifts; 8 heads at every level, not 24 channels a head.
LSUN_CHURCHES_256 = LDMConfig(
    unet=UNetConfig(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(192, 384, 384, 768, 768),
        down_block_types=("AttnDownBlock2D",) * 4 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("AttnUpBlock2D",) * 4,
        attention_head_dim=None,
        num_attention_heads=8,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    ),
    first_stage=KLConfig(),
    schedule=ScheduleConfig(beta_end=0.0155),
)

# CelebA-HQ, FFHQ and LSUN-Bedrooms differ only in their weights.
PRESETS: dict[str, LDMConfig] = {
    "celebahq-256": CELEBAHQ_256,
    "ffhq-256": CELEBAHQ_256,
    "lsun-bedrooms-256": CELEBAHQ_256,
    "lsun-churches-256": LSUN_CHURCHES_256,
}
