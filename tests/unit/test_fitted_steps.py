"""Fitted steps: what a fit reaches and repeats, its file, and the runs and models that it is not for."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generated import manifest, run
from model_folder import TINY, write_model_folder
from PIL import Image
from typer.testing import CliRunner

import ldm_backend
from ldm_backend.errors import CheckpointError, InputError, LDMError, ScheduleError, TooLargeError
from ldm_backend.fitting import steps as fitting_steps
from ldm_backend.fitting.objective import half_log_snrs, rows_of, timesteps_at
from ldm_backend.fitting.steps import FitState
from ldm_backend.sampling.fitted import FITTED_SAMPLERS, MOST_EVALUATIONS, FittedSteps, sample_fitted
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, sample
from ldm_backend.sampling.schedule import CLEAN
from ldm_headless.cli import app, main

GOOD = {
    "format": "ldm-fitted-steps-2",
    "model": "a" * 64,
    "sampler": "unipc",
    "evaluations": 3,
    "timesteps": [999, 500.25, 0.5],
    "coefficients": [[0.9, 0.1], [0.5, 0.25, 0.25], [0, 0, 0, 1]],
}
ROWS = ((0.9, 0.1), (0.5, 0.25, 0.25), (0.0, 0.0, 0.0, 1.0))
ROUNDS = 12  # enough to see a gain on the tiny model


@pytest.fixture(scope="module", autouse=True)
def short_limit():
    """The tiny model's limit needs fewer steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm_backend.fitting.objective.LIMIT_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def fit(tiny: ldm_backend.LatentDiffusion):
    return ldm_backend.fit_steps(tiny, 4, rounds=ROUNDS)


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**GOOD, **changes}))
    return path


# The fit


def test_gradients_that_do_not_fit_are_refused_at_first(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fit without gradients would need is there."""
    monkeypatch.setattr(fitting_steps, "free_bytes", lambda _: 2**20)
    told: list[FitState] = []
    with pytest.raises(TooLargeError, match=r"gradients of 8 pictures would take .* a machine with more memory"):
        ldm_backend.fit_steps(tiny, 4, progress=told.append)
    assert told == []


def test_a_fit_comes_nearer_to_the_limit_on_pictures_that_it_has_not_seen(tiny, fit) -> None:
    x_T = draw_noise(range(8), (3, 8, 8))
    limit = sample("ddim", tiny.unet, x_T, tiny.schedule, tiny.schedule.timesteps(250))

    def distance(latents: torch.Tensor) -> float:
        return float((latents - limit).square().flatten(1).mean(dim=1).log().mean())

    def plain(grid: str) -> torch.Tensor:
        return sample("unipc", tiny.unet, x_T, tiny.schedule, tiny.schedule.timesteps(4, grid))

    fitted = distance(sample_fitted(tiny.unet, x_T, tiny.schedule, fit.steps))
    assert fit.after > fit.before
    assert fitted < min(distance(plain(grid)) for grid in ("log_snr", "trailing", "leading"))


def test_the_same_fit_twice_is_the_same_to_the_bit_and_leaves_the_global_generator(tiny, fit) -> None:
    states: list[FitState] = []
    before = torch.get_rng_state()
    again = ldm_backend.fit_steps(tiny, 4, progress=states.append, rounds=ROUNDS)
    assert again == fit
    assert torch.equal(torch.get_rng_state(), before)
    assert [state.evaluations for state in states] == list(range(1, len(states) + 1))
    assert states[0].decibels is None
    assert states[-1].decibels is not None


@pytest.mark.parametrize("sampler", FITTED_SAMPLERS)
@pytest.mark.parametrize(("steps", "grid"), [(3, "trailing"), (6, "log_snr"), (16, "log_snr")])
def test_a_samplers_own_coefficients_give_its_own_latents(tiny, sampler: str, steps: int, grid: str) -> None:
    pairs = tiny.schedule.timesteps(steps, grid)
    own = FittedSteps("", sampler, tuple(t for t, _ in pairs), rows_of(sampler, tiny.schedule, pairs))
    x_T = draw_noise(range(2), (3, 8, 8))
    found = sample_fitted(tiny.unet, x_T, tiny.schedule, own)
    # Sums in another order, and coefficients that were float32.
    assert torch.allclose(found, sample(sampler, tiny.unet, x_T, tiny.schedule, pairs), atol=2e-5, rtol=1e-4)


def test_timesteps_have_the_derivative_by_the_log_snr(tiny) -> None:
    table = half_log_snrs(tiny.schedule)
    lambdas = torch.tensor([tiny.schedule.half_log_snr(t) for t in (999, 700.25, 3.5, 0)], dtype=torch.float64)
    assert torch.allclose(timesteps_at(table, lambdas), torch.tensor([999, 700.25, 3.5, 0], dtype=torch.float64))
    inner = lambdas[1:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda each: timesteps_at(table, each), inner, eps=1e-7)


def test_steps_are_within_the_schedule(tiny, fit) -> None:
    pairs = fit.steps.pairs(tiny.schedule, "unipc", 4)
    assert pairs[0][0] == 999
    assert pairs[-1][1] == CLEAN
    assert [len(row) for row in fit.steps.coefficients] == [2, 3, 4, 5]


def test_a_fit_leaves_no_gradients(tiny, fit) -> None:
    assert not any(each.requires_grad or each.grad is not None for each in tiny.unet.parameters())


@pytest.mark.parametrize("rounds", [0, 10_001, 1.0, True])
def test_rounds_have_bounds(tiny, rounds: Any) -> None:
    with pytest.raises(ScheduleError, match="rounds is"):
        ldm_backend.fit_steps(tiny, 4, rounds=rounds)


@pytest.mark.parametrize(
    ("evaluations", "sampler", "words"),
    [
        (2, "unipc", "from 3 to 20"),
        (MOST_EVALUATIONS + 1, "unipc", "from 3 to 20"),
        (True, "unipc", "from 3 to 20"),
        *((8, sampler, "sampler is") for sampler in SAMPLERS if sampler not in FITTED_SAMPLERS),
    ],
)
def test_what_cannot_be_fitted_is_told(tiny, evaluations: int, sampler: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        ldm_backend.fit_steps(tiny, evaluations, sampler)


# What it is for


def test_pictures_are_those_of_timesteps_and_coefficients(tiny, fit) -> None:
    found = ldm_backend.generate(tiny, [5], 4, sampler="unipc", grid=fit.steps)
    latents = sample_fitted(tiny.unet, draw_noise([5], (3, 8, 8)), tiny.schedule, fit.steps)
    assert np.array_equal(found, ldm_backend.pipeline.decode_to_uint8(tiny, latents))
    assert not np.array_equal(found, ldm_backend.generate(tiny, [5], 4, sampler="unipc"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 5, "sampler": "unipc"}, "fitted for 4 of unipc"),
        ({"steps": 4, "sampler": "ddim"}, "fitted for 4 of unipc"),
        ({"steps": 4, "sampler": "ddim", "eta": 1.0}, "eta is 1.0"),
        ({"steps": 4, "sampler": "ddpm"}, "without noise"),
    ],
)
def test_another_run_is_refused(tiny, fit, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        ldm_backend.generate(tiny, [5], grid=fit.steps, **settings)


def test_another_model_is_refused_and_another_first_stage_is_not(tiny, fit, tmp_path: Path) -> None:
    def loaded(name: str, **changes: Any) -> ldm_backend.LatentDiffusion:
        return ldm_backend.load(write_model_folder(tmp_path / name, replace(TINY, **changes)), "cpu")

    again = loaded("again")
    assert again.identity == tiny.identity
    stage = loaded("stage", first_stage=replace(TINY.first_stage, num_vq_embeddings=32))
    assert stage.identity == tiny.identity
    others = [
        loaded("unet", unet=replace(TINY.unet, block_out_channels=(8, 24))),
        loaded("heads", unet=replace(TINY.unet, attention_head_dim=4)),
        loaded("schedule", schedule=replace(TINY.schedule, beta_end=0.018)),
        replace(again, weights="ema"),
    ]
    for other in others:
        with pytest.raises(InputError, match="fitted to the model"):
            ldm_backend.generate(other, [5], 4, sampler="unipc", grid=fit.steps)


def test_a_model_whose_file_was_replaced_has_no_identity(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "tiny", TINY)
    model = ldm_backend.load(folder, "cpu")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    moved = file.with_name("other")
    moved.write_bytes(file.read_bytes())
    moved.replace(file)
    with pytest.raises(CheckpointError, match="moved to this name"):
        model.identity  # noqa: B018


# Its file


def test_a_file_is_read_as_it_was_written(tmp_path: Path, fit) -> None:
    path = tmp_path / "steps.json"
    path.write_text("old")
    ldm_backend.write_fitted_steps(path, fit.steps)
    assert ldm_backend.read_fitted_steps(path) == fit.steps
    assert [each.name for each in tmp_path.iterdir()] == ["steps.json"]
    assert ldm_backend.read_fitted_steps(written(path)) == FittedSteps("a" * 64, "unipc", (999.0, 500.25, 0.5), ROWS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "ldm-fitted-steps-1"}, "no object with the format"),
        ({"more": 1}, "unknown: more"),
        ({"model": "A" * 64}, "model is"),
        ({"model": None}, "model is"),
        ({"sampler": "plms"}, "sampler is 'plms'"),
        ({"sampler": ["unipc"]}, "sampler is"),
        ({"evaluations": 3.0}, "evaluations is 3.0"),
        ({"evaluations": 4}, "expected a list of 4 numbers"),
        ({"evaluations": 10**9}, "evaluations is"),
        ({"timesteps": "999"}, "timesteps is"),
        ({"timesteps": [999, True, 0]}, "timesteps is"),
        ({"timesteps": [999, math.nan, 0]}, "timesteps is"),
        ({"timesteps": [999, math.inf, 0]}, "timesteps is"),
        ({"timesteps": [math.inf, 5, 0]}, "timesteps is"),
        ({"timesteps": [999, 0, 500]}, "that fall"),
        ({"timesteps": [999, 999, 0]}, "that fall"),
        ({"timesteps": [999, 500, -1]}, "no less than 0"),
        ({"timesteps": [998.5, 500, 1]}, "that fall"),
        ({"timesteps": [1e300, 500, 1]}, "that fall"),
        ({"coefficients": None}, "coefficients is None"),
        ({"coefficients": {}}, "coefficients is"),
        ({"coefficients": [1, 2, 3]}, "coefficients is"),
        ({"coefficients": [[1, True], [0, 0, 1], [0, 0, 0, 1]]}, "coefficients is"),
        ({"coefficients": [[1, math.nan], [0, 0, 1], [0, 0, 0, 1]]}, "coefficients is"),
        ({"coefficients": [[1, 0], [0, 0, -math.inf], [0, 0, 0, 1]]}, "coefficients is"),
        ({"coefficients": [[1, "0"], [0, 0, 1], [0, 0, 0, 1]]}, "coefficients is"),
        ({"coefficients": []}, "expected 3 rows"),
        ({"coefficients": [[1, 0], [0, 0, 1]]}, "expected 3 rows"),
        ({"coefficients": [[1, 0], [0, 1], [0, 0, 0, 1]]}, "expected 3 rows"),
        ({"coefficients": [[0, 0, 0, 1], [0, 0, 1], [1, 0]]}, "expected 3 rows"),
        ({"coefficients": [[1, 1000.5], [0, 0, 1], [0, 0, 0, 1]]}, "a coefficient is 1000.5"),
        ({"coefficients": [[1, 0], [0, 0, 1], [0, 0, 0, -1e300]]}, r"a coefficient is -1e\+300"),
    ],
)
def test_what_no_fit_makes_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = written(tmp_path / "steps.json", **changes)
    with pytest.raises(InputError, match=words) as refusal:
        ldm_backend.read_fitted_steps(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("missing", GOOD)
def test_every_key_is_needed(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({key: value for key, value in GOOD.items() if key != missing}))
    with pytest.raises(InputError, match="format" if missing == "format" else f"missing or unknown: {missing}"):
        ldm_backend.read_fitted_steps(path)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff" * 9, b"[" * 9000, b" " * 70_000, b'{"format": 1, "format": 2}']
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "steps.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="ldm fit-steps"):
        ldm_backend.read_fitted_steps(path)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            ldm_backend.read_fitted_steps(other)


def test_the_demos_steps_are_for_it(root: Path) -> None:
    folder = root / "demo" / "portraits-128"
    model = ldm_backend.load(folder, "cpu")
    files = sorted(folder.glob("steps-*.json"))
    assert files
    for file in files:
        steps = ldm_backend.read_fitted_steps(file)
        steps.check_model(model.identity)
        assert file.name == f"steps-{steps.sampler}-{len(steps.timesteps)}.json"
        assert steps.pairs(model.schedule, steps.sampler, len(steps.timesteps))


# The commands


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def fitted_by_command(folder: Path, *options: str) -> tuple[int, str]:
    return run_command("fit-steps", str(folder), "--evaluations", "3", "--rounds", "2", "--device", "cpu", *options)


def run_command(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [*arguments])
    if isinstance(outcome.exception, LDMError):
        return getattr(outcome.exception, "exit_code", 2), str(outcome.exception)
    return outcome.exit_code, outcome.output


def test_a_run_with_a_steps_file_says_so_and_goes_on_only_with_it(tiny_folder: Path, tmp_path: Path) -> None:
    assert fitted_by_command(tiny_folder)[0] == 0
    file = tiny_folder / "steps-unipc-3.json"
    steps = ldm_backend.read_fitted_steps(file)
    out = tmp_path / "out"
    common = (tiny_folder, "--steps", "3", "--sampler", "unipc", "--device", "cpu", "--out", out)
    assert run(*common, "--seeds", "0-1", "--steps-file", file)[0] == 0
    text = ",".join(map(repr, steps.timesteps))
    rows = ";".join(",".join(map(repr, row)) for row in steps.coefficients)
    found = [(line["grid"], line["timesteps"], line["coefficients"]) for line in manifest(out)]
    assert found == [("fitted", text, rows)] * 2
    model = ldm_backend.load(tiny_folder, "cpu")
    assert np.array_equal(
        pixels_of(out / "seed-1.png"), ldm_backend.generate(model, [1], 3, sampler="unipc", grid=steps)[0]
    )
    # As it goes on: with the file, with none, with another, and as a folder that was begun without.
    (out / "seed-1.png").unlink()
    code, message = run(*common, "--seeds", "0-1", "--steps-file", file)
    assert (code, "1 made" in message, "1 were there" in message) == (0, True, True)
    code, message = run(*common, "--seeds", "0-1")
    assert code == 2
    assert "same --steps-file" in message
    other = tmp_path / "other.json"
    ldm_backend.write_fitted_steps(other, replace(steps, timesteps=(*steps.timesteps[:2], steps.timesteps[2] / 2)))
    code, message = run(*common, "--seeds", "0-1", "--steps-file", other)
    assert code == 2
    assert "timesteps is" in message
    ldm_backend.write_fitted_steps(other, replace(steps, coefficients=(*steps.coefficients[:2], (0.0, 0.0, 0.0, 0.5))))
    code, message = run(*common, "--seeds", "0-1", "--steps-file", other)
    assert code == 2
    assert "coefficients is" in message
    plain = tmp_path / "plain"
    assert run(*common[:-1], plain, "--seeds", "0-1")[0] == 0
    assert {"timesteps", "coefficients"}.isdisjoint(json.loads((plain / "job.json").read_text())["settings"])
    assert run(*common[:-1], plain, "--seeds", "0-1", "--steps-file", file)[0] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "4", "--sampler", "unipc"), "fitted for 3 of unipc"),
        (("--steps", "3"), "fitted for 3 of unipc"),
        (("--steps", "3", "--eta", "1"), "eta is 1.0"),
        (("--steps", "3", "--sampler", "unipc", "--grid", "log_snr"), "two grids"),
        (("--steps", "3", "--sampler", "unipc"), "fitted to the model aaaaaaaaaaaa"),
    ],
)
def test_a_steps_file_that_does_not_fit_is_refused(
    tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    file = written(tmp_path / "steps.json")
    code, message = run(tiny_folder, "--seeds", "0", "--out", tmp_path / "out", "--steps-file", file, *options)
    assert (code, words in message) == (2, True), message
    assert not (tmp_path / "out").exists()


def test_a_fit_has_a_place_before_it_begins(tiny_folder: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none" / "steps.json"):
        code, message = fitted_by_command(tiny_folder, "--out", str(out))
        assert (code, "give the name of a file" in message) == (2, True)
    code, message = run_command("fit-steps", "a/b")
    assert (code, "--out" in message) == (2, True)


def test_an_interrupted_fit_leaves_the_file_that_was_there(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    file = tmp_path / "steps.json"
    file.write_text("old")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm_backend.fitting.steps._descended", interrupted)
    arguments = ["fit-steps", str(tiny_folder), "--evaluations", "3", "--device", "cpu", "--out", str(file)]
    monkeypatch.setattr("sys.argv", ["ldm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert {each.name: each.read_text() for each in tmp_path.glob("*.json")} == {"steps.json": "old"}
