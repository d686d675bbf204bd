"""The configuration of the noise schedule. Imports only the readers of JSON, checks and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, check_choice, short_repr
from .checks import AS_TRAINED
from .diffusers_json import SCHEDULE_DEFAULTS, SCHEDULE_RULES
from .strict_json import LATER, read_json_object, write_json_object

_MAX_TIMESTEPS = 100_000
COSINE_OFFSET = 8e-3  # of squaredcos_cap_v2, the one that diffusers knows
_MOST_OF_COSINE = 0.999  # what a beta of the cosine schedule is cut to
_SCHEDULE_CHOICES = {
    "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "variance_type": ("fixed_small", "fixed_large"),
}
# Other names of the same; DPM-Solver's class has none where the network gives no variance.
_VARIANCE_TYPES = {"None": "fixed_small", "fixed_small_log": "fixed_small"}


def cosine_betas(steps: int, offset: float) -> list[float]:
    """The betas of Nichol and Dhariwal, arXiv 2102.09672 eq. 17, for so many timesteps."""
    signal = [math.cos((index / steps + offset) / (1.0 + offset) * math.pi / 2) ** 2 for index in range(steps + 1)]
    pairs = zip(signal[:-1], signal[1:], strict=True)
    return [min(max(1.0 - after / before, 0.0), _MOST_OF_COSINE) for before, after in pairs]


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule and what the network predicts, in the terms of diffusers' DDIMScheduler."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    set_alpha_to_one: bool = True  # what the `leading` grid takes as alphas_cumprod after its last step
    steps_offset: int = 0  # added to each timestep of the `leading` grid
    beta_schedule: str = field(default="scaled_linear", metadata=LATER)
    trained_betas: tuple[float, ...] | None = field(default=None, metadata=LATER)  # instead of the three above
    rescale_betas_zero_snr: bool = field(default=False, metadata=LATER)
    prediction_type: str = field(default="epsilon", metadata=LATER)
    clip_sample: bool = field(default=False, metadata=LATER)  # in ddim, ddpm and inpainting
    clip_sample_range: float = field(default=1.0, metadata=LATER)
    thresholding: bool = field(default=False, metadata=LATER)  # in all samplers but plms; instead of clipping
    dynamic_thresholding_ratio: float = field(default=0.995, metadata=LATER)
    sample_max_value: float = field(default=1.0, metadata=LATER)
    timestep_spacing: str = field(default="leading", metadata=LATER)  # the grid of ddim, ddpm and plms, unless chosen
    variance_type: str = field(default="fixed_small", metadata=LATER)  # of the noise of ddpm

    def __post_init__(self) -> None:
        steps = self.num_train_timesteps
        if not 1 <= steps <= _MAX_TIMESTEPS or not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ConfigError(
                f"scheduler: num_train_timesteps {short_repr(steps)}, beta_start {self.beta_start}, beta_end "
                f"{self.beta_end}; expected 1 to {_MAX_TIMESTEPS} and 0 < beta_start <= beta_end < 1. {AS_TRAINED}"
            )
        if not 0 <= self.steps_offset < steps:
            raise ConfigError(
                f"scheduler: steps_offset is {short_repr(self.steps_offset)}; expected 0 to {steps - 1}. {AS_TRAINED}"
            )
        for name, allowed in _SCHEDULE_CHOICES.items():
            check_choice(f"scheduler: {name}", getattr(self, name), allowed, ConfigError)
        self._check_betas()
        for name in ("clip_sample_range", "sample_max_value"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ConfigError(f"scheduler: {name} is {value}; expected a number above 0. {AS_TRAINED}")
        if not 0.0 < self.dynamic_thresholding_ratio <= 1.0:
            raise ConfigError(
                f"scheduler: dynamic_thresholding_ratio is {self.dynamic_thresholding_ratio}; expected 0 to 1. "
                f"{AS_TRAINED}"
            )

    def _check_betas(self) -> None:
        steps, betas = self.num_train_timesteps, self.trained_betas
        if self.rescale_betas_zero_snr and steps < 2:
            raise ConfigError(
                f"scheduler: rescale_betas_zero_snr needs num_train_timesteps of 2 or more, not {steps}. {AS_TRAINED}"
            )
        if betas is None:
            return
        if len(betas) != steps:
            raise ConfigError(
                f"scheduler: trained_betas holds {len(betas)} numbers, num_train_timesteps is {steps}; expected one "
                f"for each timestep. {AS_TRAINED}"
            )
        for index, beta in enumerate(betas):
            # A last beta of 1 is zero terminal SNR, already in the numbers.
            if not 0.0 < beta < 1.0 and not (beta == 1.0 and 0 < index == steps - 1):
                raise ConfigError(
                    f"scheduler: trained_betas[{index}] is {beta}; expected numbers above 0 and below 1. {AS_TRAINED}"
                )
        if betas[-1] == 1.0 and self.rescale_betas_zero_snr:
            raise ConfigError(
                "scheduler: trained_betas end with 1, which is zero terminal SNR already; set rescale_betas_zero_snr "
                "to false."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "scheduler/scheduler_config.json") -> ScheduleConfig:
        """Read a scheduler configuration of diffusers.

        Of which class it is decides only what its absent keys mean: the sampler is chosen for each run.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        data = dict(data)
        data.setdefault("num_train_timesteps", data.get("timesteps", cls.num_train_timesteps))  # name of 2022
        class_name = data.get("_class_name", SCHEDULE_RULES.class_names[0])
        if isinstance(class_name, str):
            data = {**SCHEDULE_DEFAULTS.get(class_name, {}), **data}
        if data.get("trained_betas") is not None:  # then these count for nothing, in diffusers too
            data = {key: value for key, value in data.items() if key not in ("beta_start", "beta_end", "beta_schedule")}
            defaults = {"beta_start": cls.beta_start, "beta_end": cls.beta_end, "beta_schedule": cls.beta_schedule}
            data |= defaults
        data["variance_type"] = _VARIANCE_TYPES.get(str(data.get("variance_type")), data.get("variance_type"))
        return read_json_object(cls, data, source, SCHEDULE_RULES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' DDIMScheduler read back as the same schedule."""
        written = write_json_object(self, SCHEDULE_RULES)
        data = {key: value for key, value in written.items() if key not in SCHEDULE_RULES.fixed}  # of other classes
        if self.variance_type == type(self).variance_type:
            del data["variance_type"]  # diffusers knows it in DDPMScheduler alone
        return data
