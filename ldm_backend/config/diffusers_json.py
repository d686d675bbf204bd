"""How diffusers writes the four parts in JSON: which values the family fixes, which keys have no influence here.

Imports only strict_json.
"""

from .strict_json import JsonRules

UNET_RULES = JsonRules(
    class_names=("UNet2DModel",),
    fixed={
        "act_fn": ("silu",),
        "add_attention": (True,),
        "attn_norm_num_groups": (None,),
        "center_input_sample": (False,),
        "class_embed_type": (None,),
        "downsample_padding": (1,),
        "dropout": (0.0,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2D",),
        "num_class_embeds": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
    },
    ignored=("num_train_timesteps",),
    required=("attention_head_dim",),  # in no tensor's shape
)
VQ_RULES = JsonRules(
    class_names=("VQModel",),
    fixed={
        "act_fn": ("silu",),
        "down_block_types": ("DownEncoderBlock2D",),
        "lookup_from_codebook": (False,),
        "mid_block_add_attention": (True,),
        "norm_type": ("group",),
        "up_block_types": ("UpDecoderBlock2D",),
    },
    ignored=("force_upcast",),
    required=(
        "block_out_channels",
        "latent_channels",
        "layers_per_block",
        "num_vq_embeddings",
    ),
)
KL_RULES = JsonRules(
    class_names=("AutoencoderKL",),
    fixed={
        "act_fn": ("silu",),
        "down_block_types": ("DownEncoderBlock2D",),
        "latents_mean": (None,),
        "latents_std": (None,),
        "mid_block_add_attention": (True,),
        "shift_factor": (None,),
        "up_block_types": ("UpDecoderBlock2D",),
        "use_post_quant_conv": (True,),
        "use_quant_conv": (True,),
    },
    ignored=("force_upcast",),
    required=(
        "block_out_channels",
        "latent_channels",
        "layers_per_block",
        "scale_factor",
    ),
)
SCHEDULE_RULES = JsonRules(
    class_names=("DDIMScheduler", "DDPMScheduler"),
    fixed={
        "beta_schedule": ("scaled_linear",),
        "clip_sample": (False,),
        "prediction_type": ("epsilon",),
        "rescale_betas_zero_snr": (False,),
        "thresholding": (False,),
        "trained_betas": (None,),
    },
    # The grid is chosen for each run; the rest belongs to values fixed above.
    ignored=(
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "timestep_spacing",
        "timestep_values",
        "timesteps",
        "variance_type",
    ),
    required=("beta_start", "beta_end", "beta_schedule", "clip_sample"),
)
