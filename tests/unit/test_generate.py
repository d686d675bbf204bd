"""`ldm generate`: seeds, jobs, the folder that survives kills, formats, refusals. Images come from a tiny model."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import generated
import numpy as np
import pytest
from generated import fill, made, make_job, manifest, run, snapshot, store

import ldm_backend
from ldm_headless.errors import ExecutionError, GenerationError, JobError
from ldm_headless.files.png import pixels_sha256, read_png, read_png_info
from ldm_headless.generation.job import Format, Job
from ldm_headless.generation.job_folder import JobFolder
from ldm_headless.pools.pool import LocalPool
from ldm_headless.seed_ranges import format_seeds, parse_seeds

# Seeds and batches


def test_seeds_are_read_in_order_and_written_back() -> None:
    assert parse_seeds("7, 0-2,18446744073709551615") == [7, 0, 1, 2, 2**64 - 1]
    for text in ("0-49", "3", "5,3-4,9", "0-1,3"):
        assert format_seeds(parse_seeds(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("-3", "cannot read '-3'"),
        ("1..4", "expected seeds and ranges"),
        ("9-3", "first <= last"),
        (str(2**64), r"2\*\*64 - 1"),
        ("0-5,3", "the seed 3 twice"),
        ("0-99999999999", "more than 10,000,000 images"),
    ],
)
def test_bad_seeds_are_explained(text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_seeds(text)


def test_batches_stay_where_they_are_when_images_are_there() -> None:
    job = make_job("10-19", batch=4)
    units = list(job.units({10, 11, 12, 13, 15}))
    assert [(unit.seeds, unit.wanted) for unit in units] == [
        ((14, 15, 16, 17), (14, 16, 17)),
        ((18, 19), (18, 19)),
    ]


# The folder


@pytest.mark.parametrize("format_", Format)
def test_what_is_left_of_a_broken_run_is_completed_to_the_same_bytes(tmp_path: Path, format_: Format) -> None:
    job = make_job(format_=format_)
    with JobFolder(tmp_path / "whole", job) as folder:
        for seed in job.seeds:
            folder.store(made(job, seed))
        folder.finish()
    out = tmp_path / "broken"
    store(out, job, "0-4,7")
    (out / ".ldm-partial-abc").write_bytes(b"half")  # a kill while a file was written
    with (out / "manifest.jsonl").open("ab") as file:
        file.write(b'{"seed": 8, "fi')  # and while a line was
    with JobFolder(out, job) as folder:
        assert folder.done == {0, 1, 2, 3, 4, 7}
        for unit in list(job.units(folder.done)):
            folder.store(made(job, unit.seeds[0]))
        folder.finish()
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_files_and_manifest_are_made_to_agree(tmp_path: Path) -> None:
    job = make_job()
    store(tmp_path, job, "0-5")
    kept = (tmp_path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_bytes(b"".join(kept[:5]))  # a kill between the image of 5 and its line
    (tmp_path / "seed-2.png").unlink()
    with JobFolder(tmp_path, job) as folder:
        assert folder.done == {0, 1, 3, 4, 5}
    assert [entry["seed"] for entry in manifest(tmp_path)] == [0, 1, 3, 4, 5]
    assert (tmp_path / "manifest.jsonl").read_bytes().splitlines(keepends=True)[-1] == kept[5]


def test_an_image_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    job = make_job()
    store(tmp_path, job, "0")
    foreign = made(make_job(steps=4), 1).png
    (tmp_path / "seed-1.png").write_bytes(foreign)
    with pytest.raises(JobError, match=r"seed-1\.png is not of this job"), JobFolder(tmp_path, job):
        pass
    assert (tmp_path / "seed-1.png").read_bytes() == foreign


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_job(steps=4), "steps is 3 there and 4 now"),
        (make_job("0-10"), "seeds is '0-9' there and '0-10' now"),
        (make_job(format_=Format.NPZ), "format is 'png' there and 'npz' now"),
        (make_job(torch="3"), "torch is '2' there and '3' now"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(tmp_path: Path, other: Job, message: str) -> None:
    store(tmp_path, make_job(), "0-3")
    before = snapshot(tmp_path)
    with pytest.raises(JobError, match=f"{message}.*another --out"), JobFolder(tmp_path, other):
        pass
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("value", ["9" * 100_000, ["a"] * 50_000, {"a": "b" * 100_000}])
def test_long_values_of_another_job_are_told_in_brief(tmp_path: Path, value: object) -> None:
    store(tmp_path, make_job(), "0")
    found = json.loads((tmp_path / "job.json").read_text())
    found["settings"]["sampler"] = value
    (tmp_path / "job.json").write_text(json.dumps(found))
    with pytest.raises(JobError, match="sampler is .* there and 'ddim' now") as told, JobFolder(tmp_path, make_job()):
        pass
    assert len(str(told.value)) < 1500


@pytest.mark.parametrize(
    ("before", "after", "format_", "grows"),
    [
        ("0-9", "0-11", Format.PNG, True),
        ("0-9", "0-9,5000,20-29", Format.PNG, True),
        ("0-7", "0-15", Format.WEBDATASET, True),
        ("0-9", "0-15", Format.WEBDATASET, False),  # its last shard holds two of four
        ("0-8", "0-11", Format.PNG, False),  # its last batch holds one of two
        ("0-9", "10-19", Format.PNG, False),
        ("0-9", "0-5", Format.PNG, False),
        ("0-9", "0-11", Format.NPZ, False),
    ],
)
def test_more_seeds_for_a_finished_folder(
    tmp_path: Path, before: str, after: str, format_: Format, grows: bool
) -> None:
    """After those that are there, and where no batch or shard of before would hold more; as if made in one go."""
    job, larger = (replace(make_job(seeds, format_=format_, batch=2), shard_size=4) for seeds in (before, after))
    out = tmp_path / "out"
    fill(out, job)
    done = snapshot(out)
    if not grows:
        with pytest.raises(JobError, match="seeds is"), JobFolder(out, larger):
            pass
        assert snapshot(out) == done
        return
    fill(out, larger)
    fill(tmp_path / "in one go", larger)
    assert snapshot(out) == snapshot(tmp_path / "in one go")


def test_sizes(tiny_folder: Path, tmp_path: Path) -> None:
    """Of the images, in the job's settings where asked for, refused where the networks cannot halve them."""
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "0", "--steps", "2", "--device", "cpu", "--batch", "auto")
    assert run(*options, "--out", out, "--height", "48", "--width", "64")[0] == 0
    assert read_png(out / "seed-0.png").shape == (48, 64, 3)
    settings = json.loads((out / "job.json").read_text())["settings"]
    assert (settings["height"], settings["width"]) == (48, 64)
    assert run(*options, "--out", tmp_path / "usual")[0] == 0
    assert not {"height", "width"} & json.loads((tmp_path / "usual" / "job.json").read_text())["settings"].keys()
    for option, message in (("--height", "height is 44"), ("--width", "width is 44")):
        status, text = run(*options, "--out", tmp_path / "bad", option, "44")
        assert status == 2
        assert f"{message}; this model needs a multiple of 8 pixels: take 40 or 48" in " ".join(text.split())
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_more_than_a_thousand_steps(tiny_folder: Path, tmp_path: Path) -> None:
    """For a model with as many timesteps, and refused for others."""
    options = (tiny_folder, "--seeds", "0", "--steps", "1001", "--device", "cpu", "--out", tmp_path / "out")
    assert "expected a whole number from 1 to 1000" in " ".join(run(*options)[1].split())
    file = tiny_folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": 1200}))
    assert run(*options)[0] == 0
    assert json.loads((tmp_path / "out" / "job.json").read_text())["settings"]["steps"] == 1001


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"mine")
    with pytest.raises(JobError, match=r"holds 'holiday\.png' but no job\.json"), JobFolder(tmp_path, make_job()):
        pass
    assert snapshot(tmp_path) == {"holiday.png": b"mine"}


def test_two_runs_cannot_write_into_one_folder(tmp_path: Path) -> None:
    with JobFolder(tmp_path, make_job()):
        code = (
            "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import generated as g;"
            "g.JobFolder(Path(sys.argv[1]), g.make_job()).__enter__()"
        )
        command = [sys.executable, "-P", "-c", code, str(tmp_path), str(Path(generated.__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another `ldm generate` is writing" in done.stderr


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    with JobFolder(tmp_path, job) as folder:
        folder.store(made(job, 0))

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(GenerationError, match="seed 1 .*No space left.*the same command continues"):
                folder.store(made(job, 1))
        assert not list(tmp_path.glob(".ldm-partial-*"))
    assert [entry["seed"] for entry in manifest(tmp_path)] == [0]


# Formats


def test_shards_are_what_the_webdataset_library_reads(tmp_path: Path) -> None:
    job = make_job(format_=Format.WEBDATASET)
    store(tmp_path, job, "9,8,7,6,5,4,3,2,1,0")
    shards = sorted(tmp_path.glob("*.tar"))
    assert [path.name for path in shards] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    with tarfile.open(shards[2]) as archive:
        assert archive.getnames() == ["seed-8.png", "seed-8.json", "seed-9.png", "seed-9.json"]
    webdataset = pytest.importorskip("webdataset", reason="reads our shards if it is installed")
    samples = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False))
    assert [json.loads(sample["json"])["seed"] for sample in samples] == list(range(10))
    assert samples[3]["__key__"].endswith("seed-3")
    assert samples[3]["png"] == made(job, 3).png


def test_an_npz_holds_the_pixels_in_the_order_of_the_seeds(tmp_path: Path) -> None:
    job = make_job("5,0-2", Format.NPZ)
    store(tmp_path, job, "0-2,5")
    arrays = np.load(tmp_path / "images.npz", allow_pickle=False)
    assert arrays["seeds"].tolist() == [5, 0, 1, 2]
    assert arrays["arr_0"].shape == (4, 8, 8, 3)
    assert [pixels_sha256(pixels) for pixels in arrays["arr_0"]] == [made(job, seed).sha256 for seed in (5, 0, 1, 2)]


# The command, on a tiny model


def test_the_command_makes_the_images_of_the_backend(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--seeds", "3-5", "--steps", "4", "--eta", "0.5", "--device", "cpu", "--out", out)
    assert run(tiny_folder, *options)[0] == 0
    model = ldm_backend.load(tiny_folder, "cpu")
    for entry in manifest(out):
        seed = entry["seed"]
        assert isinstance(seed, int)
        expected = ldm_backend.generate(model, [seed], steps=4, eta=0.5)[0]
        assert np.array_equal(read_png(out / f"seed-{seed}.png"), expected)
        assert entry["sha256"] == pixels_sha256(expected)
        info = json.loads(read_png_info(out / f"seed-{seed}.png"))
        assert (info["seed"], info["steps"], info["eta"]) == (seed, 4, 0.5)
    before = snapshot(out)
    assert run(tiny_folder, *options)[0] == 0
    assert snapshot(out) == before


def test_the_format_of_the_first_stage_is_part_of_the_job(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "3", "--steps", "2", "--device", "cpu", "--out", out)
    assert run(*options, "--first-stage-precision", "bf16")[0] == 0
    model = ldm_backend.load(tiny_folder, "cpu", first_stage_precision="bf16")
    assert np.array_equal(read_png(out / "seed-3.png"), ldm_backend.generate(model, [3], steps=2)[0])
    for settings in (
        json.loads((out / "job.json").read_text())["settings"],
        json.loads(read_png_info(out / "seed-3.png")),
    ):
        assert (settings["precision"], settings["first_stage_precision"]) == ("fp32", "bf16")
    status, message = run(*options)
    assert status
    assert "first_stage_precision is 'bf16' there and 'fp32' now" in message


def test_a_job_that_was_begun_before_there_was_a_setting_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    """One that keeps to what held then does not name it: not in its file, not in what identifies it."""
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "3,4", "--steps", "2", "--device", "cpu", "--out", out)
    assert run(*options)[0] == 0
    assert "first_stage_precision" not in json.loads((out / "job.json").read_text())["settings"]
    (out / "seed-4.png").unlink()
    before = (out / "seed-3.png").read_bytes()
    assert run(*options)[0] == 0
    assert (out / "seed-4.png").exists()
    assert (out / "seed-3.png").read_bytes() == before
    status, message = run(*options, "--first-stage-precision", "bf16")
    assert status
    assert "first_stage_precision is 'fp32' there and 'bf16' now" in message


def test_batch_auto_makes_the_images_of_batch_1(tiny_folder: Path, tmp_path: Path) -> None:
    """At most one level apart, in at most 0.1 % of the values; the number that was chosen is part of the job."""
    options = (tiny_folder, "--seeds", "0-9", "--steps", "4", "--device", "cpu")
    assert run(*options, "--out", tmp_path / "one")[0] == 0
    assert run(*options, "--batch", "auto", "--out", tmp_path / "auto")[0] == 0
    assert json.loads((tmp_path / "auto" / "job.json").read_text())["settings"]["batch"] > 1
    one, auto = (np.stack([read_png(tmp_path / name / f"seed-{seed}.png") for seed in range(10)]).astype(int)
                 for name in ("one", "auto"))  # fmt: skip
    assert np.abs(one - auto).max() <= 1
    assert (one != auto).mean() <= 1e-3


def test_batch_auto_keeps_the_batch_of_a_run_that_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    """Or the folder would be of another job whenever another amount of memory is free."""
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "0-6", "--steps", "1", "--device", "cpu", "--out", out)
    assert run(*options, "--batch", "3")[0] == 0
    (out / "seed-4.png").unlink()
    assert run(*options, "--batch", "auto")[0] == 0
    assert json.loads((out / "job.json").read_text())["settings"]["batch"] == 3
    assert (out / "seed-4.png").is_file()


@pytest.mark.parametrize(("sampler", "grid"), [("ddim", "leading"), ("plms", "leading"), ("unipc", "log_snr")])
def test_the_default_grid_is_the_samplers_own(tiny_folder: Path, tmp_path: Path, sampler: str, grid: str) -> None:
    """Written as what it became; the same images as with its name."""
    options = (tiny_folder, "--seeds", "0-2", "--steps", "3", "--device", "cpu", "--sampler", sampler, "--out")
    assert run(*options, tmp_path / "auto")[0] == 0
    assert run(*options, tmp_path / "named", "--grid", grid)[0] == 0
    assert json.loads((tmp_path / "auto" / "job.json").read_text())["settings"]["grid"] == grid
    assert snapshot(tmp_path / "auto") == snapshot(tmp_path / "named")


def test_a_job_goes_on_with_the_grid_that_it_began_with(tiny_folder: Path, tmp_path: Path) -> None:
    """The default was `leading` for every sampler once; a named grid is still compared, and so is another sampler."""
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "0-2", "--steps", "3", "--device", "cpu", "--out", out)
    assert run(*options, "--sampler", "unipc", "--grid", "leading")[0] == 0
    before = snapshot(out)
    (out / "seed-1.png").unlink()
    assert run(*options, "--sampler", "unipc")[0] == 0
    assert snapshot(out) == before
    assert "grid is 'leading' there and 'trailing' now" in run(*options, "--sampler", "unipc", "--grid", "trailing")[1]
    assert "grid is 'leading' there and 'log_snr' now" in run(*options, "--sampler", "dpmpp_2m")[1]
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--batch", "0"), 2, "--batch is '0'; expected a number from 1"),
        (("--batch", "many"), 2, "or auto"),
        (("--sampler", "magic"), 2, "sampler is 'magic'; choose one of"),
        (("--sampler", "unipc", "--eta", "1"), 2, "unipc has no eta"),
        (("--grid", "compvis", "--steps", "300"), 2, "300"),
        (("--workers", "2"), 2, "--workers is for --ray"),
        (("--steps", "0"), 2, "greater than or equal to 1"),
        (("--height", "8192", "--width", "8192"), 2, "more than the 33,554,432 pixels"),
        (("--threads", "2147483648"), 2, "--threads"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(
    tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    found = run(tiny_folder, "--seeds", "0", "--device", "cpu", "--out", tmp_path / "out", *options)
    assert found[0] == status
    assert message in found[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing_and_make_nothing_twice(tiny_folder: Path, tmp_path: Path) -> None:
    """The whole program under kill -9, twice, then to its end."""
    arguments = ["generate", str(tiny_folder), "--seeds", "0-119", "--steps", "4", "--device", "cpu"]
    arguments += ["--format", "webdataset", "--shard-size", "25", "--batch", "3"]
    assert run(*arguments[1:], "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-P", "-m", "ldm_headless", *arguments, "--out", str(out)]
    made_before = 0
    for images in (20, 70):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while lines(out) < images and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lines(out) >= max(images, made_before)  # what was there is still there
        made_before = lines(out) - 1  # its last line may be cut
        for shard in out.glob("*.tar"):
            assert shard.read_bytes() == (tmp_path / "whole" / shard.name).read_bytes()
    subprocess.run(command, check=True, capture_output=True)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def lines(out: Path) -> int:
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Workers


class Doubler:
    def __init__(self) -> None:
        self.started = self.stopped = False

    def start(self) -> None:
        self.started = True

    def __call__(self, item: int) -> int:
        assert self.started
        if item == 13:
            raise JobError("thirteen")
        return 2 * item

    def stop(self) -> None:
        self.stopped = True


def test_a_local_pool_yields_each_result_once_and_stops_its_worker() -> None:
    worker = Doubler()
    pool: LocalPool[int, int] = LocalPool(lambda: worker, in_flight=3)
    assert sorted(pool.map(range(10))) == list(range(0, 20, 2))
    assert worker.stopped
    with pytest.raises(JobError, match="thirteen"):
        list(pool.map(range(20)))


def test_errors_come_back_whole_from_another_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ExecutionError("4", "N", "a.ValueError", "bad")))  # noqa: S301 - our own bytes
    assert (type(error), error.node_id, str(error)) == (ExecutionError, "4", "node 4 (N) failed: ValueError: bad")


def test_a_png_is_read_only_as_what_it_is() -> None:
    with pytest.raises(JobError, match="cannot read x as PNG"):
        read_png(io.BytesIO(b"GIF89a"), "x")
