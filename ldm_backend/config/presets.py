"""The released models of the family, for checkpoints that come without a configuration. Imports only config.

Source: CompVis/latent-diffusion models/ldm/*/config.yaml. `scale_factor` of Churches is a buffer of its checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from .conditioning import (
    ClassConfig,
    LowResolutionConfig,
    MaskedImageConfig,
    SegmentationConfig,
    TextConfig,
    VectorsConfig,
)
from .model import KLConfig, LDMConfig, ScheduleConfig, UNetConfig, VQConfig

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

# bsr_sr: 64x64 pixels to 256x256. Of the attention that its YAML asks for only that at an eighth is there.
SUPER_RESOLUTION_4X = LDMConfig(
    unet=UNetConfig(
        in_channels=6,
        block_out_channels=(160, 320, 320, 640),
        down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
    ),
    schedule=ScheduleConfig(beta_end=0.0155),
    conditioning=LowResolutionConfig(),
)

# inpainting_big, with vq-f4-noattn: trained at 256x256, then at 512x512.
INPAINTING_512 = LDMConfig(
    unet=UNetConfig(
        in_channels=7,
        block_out_channels=(256, 512, 768, 1024),
        attention_head_dim=None,
        num_attention_heads=8,
        downsample_type="resnet",
        upsample_type="resnet",
    ),
    first_stage=VQConfig(mid_block_add_attention=False),
    schedule=ScheduleConfig(beta_end=0.0205),
    conditioning=MaskedImageConfig(),
)

# Attention in the middle alone: the levels that the YAML names are coarser than any of the three.
SEMANTIC_SYNTHESIS_256 = LDMConfig(
    unet=UNetConfig(
        in_channels=6,
        block_out_channels=(128, 512, 1024),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=None,
        num_attention_heads=8,
    ),
    schedule=ScheduleConfig(beta_end=0.0205),
    conditioning=SegmentationConfig(),
)
SEMANTIC_SYNTHESIS_512 = replace(SEMANTIC_SYNTHESIS_256, unet=replace(SEMANTIC_SYNTHESIS_256.unet, sample_size=128))

# cin256-v2 (configs/latent-diffusion): one head at each level, however wide; class 1000 is no class.
IMAGENET_256 = LDMConfig(
    unet=UNetConfig(
        block_out_channels=(192, 384, 576, 960),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        attention_head_dim=None,
        num_attention_heads=1,
        cross_attention_dim=512,
    ),
    conditioning=ClassConfig(),
)
# cin256, with vq-f8: without a class that is none, so without guidance.
IMAGENET_256_F8 = LDMConfig(
    unet=UNetConfig(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(256, 512, 1024),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=512,
    ),
    first_stage=VQConfig(
        latent_channels=4,
        block_out_channels=(128, 256, 256, 512),
        num_vq_embeddings=16384,
        vq_embed_dim=4,
        encoder_attention=(3,),
        decoder_attention=(3,),
    ),
    conditioning=ClassConfig(n_classes=1000, last_is_none=False),
)

# text2img-large (txt2img-1p4B-eval), with kl-f8; its heads are a number, in the UNet and in the encoder.
TEXT_TO_IMAGE_LARGE_256 = LDMConfig(
    unet=UNetConfig(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=None,
        num_attention_heads=8,
        cross_attention_dim=1280,
    ),
    first_stage=KLConfig(scale_factor=0.18215),
    schedule=ScheduleConfig(beta_start=0.00085, beta_end=0.012),
    conditioning=TextConfig(),
)
# text2img256, of Conceptual Captions, with vq-f4.
TEXT_TO_IMAGE_256 = LDMConfig(
    unet=UNetConfig(
        block_out_channels=(192, 384, 576, 960),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        cross_attention_dim=640,
    ),
    conditioning=TextConfig(embed_dim=640),
)

# rdm768x768 (configs/retrieval-augmented-diffusion), with kl-f16: vectors of CLIP ViT-L/14, and 768x768 pixels.
RETRIEVAL_768 = LDMConfig(
    unet=UNetConfig(
        sample_size=48,
        in_channels=16,
        out_channels=16,
        block_out_channels=(448, 896, 1344, 1792),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768,
    ),
    first_stage=KLConfig(
        latent_channels=16,
        block_out_channels=(128, 128, 256, 256, 512),
        scale_factor=0.22765929,
        encoder_attention=(4,),
        decoder_attention=(4,),
    ),
    schedule=ScheduleConfig(beta_end=0.015),
    conditioning=VectorsConfig(),
)

# CelebA-HQ, FFHQ and LSUN-Bedrooms differ only in their weights.
PRESETS: dict[str, LDMConfig] = {
    "celebahq-256": CELEBAHQ_256,
    "ffhq-256": CELEBAHQ_256,
    "lsun-bedrooms-256": CELEBAHQ_256,
    "lsun-churches-256": LSUN_CHURCHES_256,
    "super-resolution-4x": SUPER_RESOLUTION_4X,
    "inpainting-512": INPAINTING_512,
    "semantic-synthesis-256": SEMANTIC_SYNTHESIS_256,
    "semantic-synthesis-512": SEMANTIC_SYNTHESIS_512,
    "imagenet-256": IMAGENET_256,
    "imagenet-256-f8": IMAGENET_256_F8,
    "text-to-image-large-256": TEXT_TO_IMAGE_LARGE_256,
    "text-to-image-256": TEXT_TO_IMAGE_256,
    "retrieval-768": RETRIEVAL_768,
}
# Their scale factor was measured in training (scale_by_std), and only the checkpoint has it.
MEASURED = frozenset({"lsun-churches-256"})
