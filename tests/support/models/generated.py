"""Jobs of `ldm generate` whose images are noise, their folders, and the command itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from ldm_backend.errors import LDMError
from ldm_headless.cli import app
from ldm_headless.files.png import encode_png, pixels_sha256
from ldm_headless.generation.job import Format, Job, Settings
from ldm_headless.generation.job_folder import JobFolder, MadeImage
from ldm_headless.seed_ranges import parse_seeds

SETTINGS = Settings("c" * 64, 3, 0.0, "ddim", "leading", 1, "cpu", "fp32", "fp32", False, 1, "2", "0")


def make_job(seeds: str = "0-9", format_: Format = Format.PNG, **changes: object) -> Job:
    return Job(replace(SETTINGS, **changes), tuple(parse_seeds(seeds)), format_, 4)  # pyright: ignore[reportArgumentType]


def made(job: Job, seed: int) -> MadeImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return MadeImage(seed, encode_png(pixels, job.info(seed, "m")), pixels_sha256(pixels), "m")


def store(out: Path, job: Job, seeds: str) -> None:
    with JobFolder(out, job) as folder:
        for seed in parse_seeds(seeds):
            folder.store(made(job, seed))


def snapshot(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def fill(out: Path, job: Job) -> None:
    with JobFolder(out, job) as folder:
        for unit in list(job.units(folder.done)):
            for seed in unit.wanted:
                folder.store(made(job, seed))
        folder.finish()


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    if isinstance(result.exception, LDMError):
        return getattr(result.exception, "exit_code", 2), str(result.exception)
    return result.exit_code, result.output
