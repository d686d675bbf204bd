"""How diffusers writes the four parts in JSON: which values the family fixes, which keys have no influence here.

Imports only strict_json.
"""

from .strict_json import JsonRules

_CONDITIONAL = "The model takes a class beside the noise; only models that take none run here."
_SILU = ("silu", "swish")  # two names of one function
UNET_RULES = JsonRules(
    class_names=("UNet2DModel",),
    fixed={
        "act_fn": _SILU,
        "class_embed_type": (None,),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2D",),
        "num_class_embeds": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
    },
    # The second row is what EMAModel writes beside the settings of the network it averaged.
    ignored=(
        "num_train_timesteps",
        "dropout",  # of training
        *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"),
    ),
    required=("attention_head_dim",),  # in no tensor's shape
    reasons=dict.fromkeys(("class_embed_type", "num_class_embeds"), _CONDITIONAL),
)
# With a context. Heads are numbers of them there, see `unet_json`.
CONDITION_UNET_RULES = JsonRules(
    class_names=("UNet2DConditionModel",),
    fixed={
        "act_fn": _SILU,
        "addition_embed_type": (None,),
        "addition_time_embed_dim": (None,),
        "attention_type": ("default",),
        "class_embed_type": (None,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "cross_attention_norm": (None,),
        "dual_cross_attention": (False,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "mid_block_only_cross_attention": (None,),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "num_class_embeds": (None,),
        "only_cross_attention": (False,),
        "projection_class_embeddings_input_dim": (None,),
        "resnet_out_scale_factor": (1.0,),
        "resnet_skip_time_act": (False,),
        "reverse_transformer_layers_per_block": (None,),
        "time_cond_proj_dim": (None,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
        "upcast_attention": (False,),
        "use_linear_projection": (False,),
    },
    # Of training; and of `addition_embed_type`, which is none.
    ignored=("dropout", "addition_embed_type_num_heads"),
    required=("attention_head_dim", "cross_attention_dim"),
)
VQ_RULES = JsonRules(
    class_names=("VQModel",),
    fixed={
        "act_fn": _SILU,
        "lookup_from_codebook": (False,),
        "norm_type": ("group",),
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
        "act_fn": _SILU,
        "latents_mean": (None,),
        "latents_std": (None,),
        "shift_factor": (None,),
        "use_post_quant_conv": (True,),
        "use_quant_conv": (True,),
    },
    ignored=("force_upcast",),
    required=(
        "block_out_channels",
        "latent_channels",
        "layers_per_block",
    ),
)
# Keys of how a class of diffusers samples. Which sampler runs, of what order and on which grid, is chosen for each run.
_OF_THE_SAMPLER = (
    "algorithm_type",
    "disable_corrector",
    "euler_at_final",
    "final_sigmas_type",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "predict_x0",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
)
SCHEDULE_RULES = JsonRules(
    class_names=(
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ),
    # Another process (flow matching) or other inputs of the network, and ends of the schedule that are not the table's.
    fixed={
        "shift_terminal": (None,),
        "sigma_max": (None,),
        "sigma_min": (None,),
        "timestep_values": (None,),
        "timestep_type": ("discrete",),
        "use_dynamic_shifting": (False,),
        "use_flow_sigmas": (False,),
    },
    # Beside those of the sampler: what only flow matching reads, and the name of 2022 for num_train_timesteps.
    ignored=(*_OF_THE_SAMPLER, "flow_shift", "time_shift_type", "timesteps"),
    required=("beta_start", "beta_end", "beta_schedule", "clip_sample"),
)
# What absent keys mean in a class, where it is not what they mean here. The keys of `required` are not among them, but
# for classes that do not have them.
_SOLVER = {"clip_sample": False, "timestep_spacing": "linspace"}
SCHEDULE_DEFAULTS = {
    "DPMSolverMultistepScheduler": _SOLVER,
    "EulerAncestralDiscreteScheduler": _SOLVER,
    "EulerDiscreteScheduler": _SOLVER,
    "HeunDiscreteScheduler": _SOLVER,
    "LMSDiscreteScheduler": _SOLVER,
    "PNDMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
    "UniPCMultistepScheduler": _SOLVER,
}
