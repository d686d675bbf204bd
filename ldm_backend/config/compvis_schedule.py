"""The noise schedule in the YAML of CompVis/latent-diffusion. Imports schedule, the readers of JSON, checks and errors.

The names are traps: CompVis' "linear" is linear in sqrt(beta), diffusers' scaled_linear; its "sqrt_linear" is linear in
beta, diffusers' linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED
from .schedule import COSINE_OFFSET, ScheduleConfig, cosine_betas
from .strict_json import read_fields

# The entries of model.params that are read here.
SCHEDULE_KEYS = (
    "beta_schedule",
    "cosine_s",
    "given_betas",
    "linear_end",
    "linear_start",
    "parameterization",
    "timesteps",
    "v_posterior",
)
_BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2", "sqrt": None}
_PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_VARIANCE_TYPES = {0.0: "fixed_small", 1.0: "fixed_large"}


def schedule_from_yaml(params: Mapping[str, Any], source: str) -> ScheduleConfig:
    """The schedule of a model's parameters; absent ones have the defaults of CompVis' class.

    Args:
        params: The section model.params.
        source: Of it, for errors.

    Raises:
        ConfigError: An entry of another type, out of range, or not known.

    Source: CompVis ldm/models/diffusion/ddpm.py DDPM.__init__ and register_schedule;
        ldm/modules/diffusionmodules/util.py make_beta_schedule.
    """
    data: dict[str, Any] = {
        "num_train_timesteps": params.get("timesteps", 1000),
        "beta_start": params.get("linear_start", 1e-4),
        "beta_end": params.get("linear_end", 2e-2),
        "prediction_type": _chosen(params, "parameterization", "eps", _PREDICTION_TYPES, source),
        "variance_type": _chosen(params, "v_posterior", 0.0, _VARIANCE_TYPES, source),
    }
    named = _chosen(params, "beta_schedule", "linear", _BETA_SCHEDULES, source)
    if params.get("given_betas") is not None:
        given = params["given_betas"]
        if not isinstance(given, list):
            raise ConfigError(f"{source}: given_betas is {short_repr(given)}; expected a list of numbers. {AS_TRAINED}")
        data |= {"trained_betas": given, "num_train_timesteps": len(given)}  # their number counts, not `timesteps`
        return read_fields(ScheduleConfig, data, source)
    data["beta_schedule"] = named or "linear"
    config: ScheduleConfig = read_fields(ScheduleConfig, data, source)  # what follows relies on checked numbers
    betas = _other_betas(config, params, source) if params.get("beta_schedule") in ("cosine", "sqrt") else None
    return read_fields(ScheduleConfig, data | {"trained_betas": betas}, source) if betas else config


def _other_betas(config: ScheduleConfig, params: Mapping[str, Any], source: str) -> list[float] | None:
    """The betas that have no name in diffusers: "sqrt", and "cosine" with another offset than usual."""
    steps = config.num_train_timesteps
    if params["beta_schedule"] == "sqrt":
        rise = (config.beta_end - config.beta_start) / max(steps - 1, 1)
        return [math.sqrt(config.beta_start + index * rise) for index in range(steps)]
    offset = params.get("cosine_s", COSINE_OFFSET)
    if type(offset) not in (int, float) or not 0.0 <= offset < 1.0:
        raise ConfigError(
            f"{source}: cosine_s is {short_repr(offset)}; expected a number from 0 to below 1. {AS_TRAINED}"
        )
    return None if offset == COSINE_OFFSET else cosine_betas(steps, offset)


def _chosen(params: Mapping[str, Any], key: str, default: Any, names: Mapping[Any, Any], source: str) -> Any:
    """What an entry says, by its name in diffusers."""
    value = params.get(key, default)
    if not isinstance(value, str | int | float) or value not in names:
        known = ", ".join(map(repr, names))
        raise ConfigError(f"{source}: {key} is {short_repr(value)}; supported are {known}. {NOT_IMPLEMENTED}")
    return names[value]
