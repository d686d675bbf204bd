"""Tables, grids and single steps against DDIMScheduler; no network involved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import ScheduleError
from ldm_backend.sampling.samplers import sample_ddim
from ldm_backend.sampling.schedule import Schedule

pytestmark = pytest.mark.parity


def both(**settings: object) -> tuple[Schedule, Any]:
    config = ScheduleConfig(**settings)  # type: ignore[arg-type]
    return Schedule(config), DDIMScheduler.from_config(config.to_dict())


def test_tables():
    """Ours are float64, theirs float32: equal to float32 rounding of a product of 1000 factors."""
    ours, theirs = both()
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


@pytest.mark.parametrize("settings", [{}, {"steps_offset": 1, "set_alpha_to_one": False}])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 150, 200, 300, 999, 1000])
def test_leading_grid(settings, steps):
    """The very timesteps of diffusers; where those leave its own table, an error."""
    ours, theirs = both(**settings)
    theirs.set_timesteps(steps)
    expected = theirs.timesteps.tolist()
    if max(expected) >= 1000:
        with pytest.raises(ScheduleError, match="reach timestep 1000"):
            ours.timesteps(steps, "leading")
    else:
        assert [t for t, _ in ours.timesteps(steps, "leading")] == expected


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("settings", [{}, {"steps_offset": 1, "set_alpha_to_one": False}])
def test_loop_with_a_synthetic_model(settings, eta):
    """Fifty steps on eps = sin(x + t), the same injected noise; 1e-4 covers the float32 tables there."""
    ours, theirs = both(**settings)
    theirs.set_timesteps(50)
    draws = torch.randn((51, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0))

    def eps_model(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.sin(x + t / 100)

    expected = draws[0]
    for index, t in enumerate(theirs.timesteps):
        eps = eps_model(expected, int(t))
        expected = theirs.step(eps, int(t), expected, eta=eta, variance_noise=draws[1 + index])["prev_sample"]
    noises = iter(draws[1:])
    result = sample_ddim(eps_model, draws[0], ours, ours.timesteps(50, "leading"), eta, lambda: next(noises))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
