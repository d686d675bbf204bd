"""DPM-Solver++ (Lu et al., arXiv 2211.01095), multistep, of order 2 and 3.

The solvers integrate over lambda, half the logarithm of the signal-to-noise ratio. Between evaluations the predicted
clean latent D is a polynomial in lambda, and the integral of that is exact:

    x_prev = sigma_prev / sigma_t * x_t + alpha_prev * integral from 0 to h of e^(u - h) D(lambda_t + u) du
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .evaluations import Evaluations
from .schedule import Pairs, Schedule
from .step import Callback, Denoiser, History, StepInfo, order_of_step
from .step_noise import NoiseSource, noise_of_eta


@torch.no_grad()
def sample_dpmpp_2m(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    eta: float = 0.0,
    step_noise: NoiseSource | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run DPM-Solver++(2M), midpoint, from x_T to x_0: one evaluation a step.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        eta: Noise level, 0 (the ODE, deterministic) to 1 (the diffusion SDE: SDE-DPM-Solver++).
        step_noise: Gives (N, C, H, W) fresh noise for each step; needed when eta > 0.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Eta out of range, or eta > 0 without `step_noise`.
        SamplingError: The model gave NaN.

    Source: DPM-Solver++ algorithm 2, and its SDE-DPM-Solver++(2M) for eta 1; in between, the SDE whose noise has eta
        times the variance per lambda, of which both are a case.
    """
    schedule, x_t = schedule.with_signal, x_T.float()
    history: History = []
    draws = noise_of_eta(step_noise, "dpmpp_2m", eta, x_t.device, len(pairs))
    with Evaluations(denoiser, schedule, len(pairs)) as model, draws as draw:
        for index, (t, t_prev) in enumerate(pairs):
            pred_x0 = model.predict_x0(x_t, t, index)
            history = [(schedule.half_log_snr(t), pred_x0), *history[:1]]
            h = schedule.half_log_snr(t_prev) - history[0][0]
            a_t, a_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
            data = pred_x0
            if order_of_step(2, index, pairs) == 2:
                data = pred_x0 + 0.5 * h * _slope(history)
            damping = eta * h if eta else 0.0  # h may be infinite
            x_t = (
                math.sqrt((1.0 - a_prev) / (1.0 - a_t)) * math.exp(-damping) * x_t
                - math.sqrt(a_prev) * math.expm1(-h - damping) * data
            )
            if draw is not None:
                x_t = x_t + math.sqrt(-(1.0 - a_prev) * math.expm1(-2.0 * damping)) * draw()
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t


@torch.no_grad()
def sample_dpmpp_3m(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    callback: Callback | None = None,
) -> Tensor:
    """Run DPM-Solver++(3M) from x_T to x_0: one evaluation a step.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        SamplingError: The model gave NaN.

    Source: DPM-Solver++ section 4: the expansion of order 3, with derivatives from the last three evaluations;
        diffusers schedulers/scheduling_dpmsolver_multistep.py for the factor of the last term.
    """
    schedule, x_t = schedule.with_signal, x_T.float()
    history: History = []
    with Evaluations(denoiser, schedule, len(pairs)) as model:
        for index, (t, t_prev) in enumerate(pairs):
            pred_x0 = model.predict_x0(x_t, t, index)
            history = [(schedule.half_log_snr(t), pred_x0), *history[:2]]
            h = schedule.half_log_snr(t_prev) - history[0][0]
            order = order_of_step(3, index, pairs)
            a_t, a_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
            # phi_1 and phi_2: the integral for D constant and linear in lambda.
            phi_1 = -math.expm1(-h)
            integral = phi_1 * pred_x0
            if order == 2:
                integral = integral + 0.5 * h * phi_1 * _slope(history)
            elif order == 3:
                slope, bend = _parabola(history)
                phi_2 = h - phi_1
                # The exact integral has twice the last term. The authors' program and diffusers run it so, and so do
                # we: it costs the third order on smooth problems, and makes 20 steps of the demo model no worse.
                integral = integral + phi_2 * slope + (0.5 * h * h - phi_2) * bend
            x_t = math.sqrt((1.0 - a_prev) / (1.0 - a_t)) * x_t + math.sqrt(a_prev) * integral
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t


def _slope(history: History) -> Tensor:
    """dD/dlambda between the last two evaluations."""
    (lambda_0, data_0), (lambda_1, data_1) = history[:2]
    return (data_0 - data_1) / (lambda_0 - lambda_1)


def _parabola(history: History) -> tuple[Tensor, Tensor]:
    """Slope at the newest of the last three evaluations and square term of the parabola through them."""
    newer, older = _slope(history), _slope(history[1:])
    bend = (newer - older) / (history[0][0] - history[2][0])
    return newer + (history[0][0] - history[1][0]) * bend, bend
