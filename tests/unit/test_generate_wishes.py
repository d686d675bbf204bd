"""`ldm generate` with texts and classes: dealt out to the seeds, saved, resumed, and refused where a model has none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from class_models import GUIDED, UNGUIDED, random_weights
from conditional_models import SUPER_RESOLUTION, write_conditional_folder
from generated import fill, make_job, manifest, run, snapshot, store
from model_folder import write_model_folder
from text_models import write_text_folder

import ldm_backend
from ldm_backend.checkpoints.checkpoint import Checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_headless.errors import JobError
from ldm_headless.files.png import read_png, read_png_info
from ldm_headless.generation.job import Format, Job
from ldm_headless.generation.job_folder import JobFolder
from ldm_headless.generation.wishes import Wish, Wishes, parse_wishes

FAST = ("--steps", 2, "--device", "cpu")
TEXTS = Wishes(("a woman", "a man", "red hair"), (), "glasses", 3.0)
CLASSES = Wishes((), (4, None), "", 1.5)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_folder(tmp_path_factory.mktemp("texts") / "model")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, nowhere = tmp_path_factory.mktemp("classes"), Path("tiny")
    for name, config in (("guided", GUIDED), ("unguided", UNGUIDED)):
        checkpoint = Checkpoint(nowhere, nowhere, nowhere, "compvis", "raw", config, *random_weights(config))
        convert_to_folder(checkpoint, folder / name)
    return {name: folder / name for name in ("guided", "unguided")}


def job_of(wishes: Wishes, seeds: str = "0-9", format_: Format = Format.PNG, **changes: object) -> Job:
    return replace(make_job(seeds, format_, **changes), wishes=wishes)


# How they are dealt out


def test_several_take_turns_over_the_seeds():
    job = job_of(TEXTS, "7,3,5,0,9", batch=2)
    dealt = {7: "a woman", 3: "a man", 5: "red hair", 0: "a woman", 9: "a man"}
    assert {seed: job.wish(seed) for seed in job.seeds} == {
        seed: Wish(text, "glasses", cfg=3.0) for seed, text in dealt.items()
    }
    for unit in job.units(()):
        assert unit.wishes == tuple(job.wish(seed) for seed in unit.seeds)
    assert [job_of(CLASSES).wish(seed).to_json()["class"] for seed in range(4)] == [4, None, 4, None]
    assert make_job().wish(3).to_json() == {}


def test_a_job_without_is_the_job_that_it_was_before():
    """Its digest, its file and its lines."""
    plain = make_job()
    assert plain.to_json()["settings"] == plain.settings.to_json()
    assert {"prompts", "classes", "negative", "cfg"}.isdisjoint(plain.to_json()["settings"])
    assert {"prompt", "class", "negative", "cfg"}.isdisjoint(plain.info(3, "m"))
    assert len({job.digest for job in (plain, job_of(TEXTS), job_of(CLASSES), job_of(replace(TEXTS, cfg=2.0)))}) == 4


def test_options_are_read(tmp_path):
    assert parse_wishes(["a", ""], None, [], "b", 2.0, 2) == Wishes(("a", ""), (), "b", 2.0)
    assert parse_wishes([], None, ["7", "none", "0"], "", 1.0, 3) == Wishes((), (7, None, 0))
    assert parse_wishes([], None, ["2-4", "none", "0-0", "09"], "", 1.0, 9).classes == (2, 3, 4, None, 0, 9)
    assert parse_wishes([], None, ["0-999"], "", 1.0, 1000).classes == tuple(range(1000))
    assert parse_wishes([], None, [], "", 1.0, 1) == Wishes()
    (tmp_path / "p.txt").write_bytes("\ufeffa wömän\r\n a man\nred\u2028hair".encode())
    assert parse_wishes([], tmp_path / "p.txt", [], "", 1.0, 3).prompts == ("a wömän", " a man", "red\u2028hair")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty; expected a prompt on each line"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\n \t\n", "line 2 is empty"),
        (b"\xff", "cannot be read .*; give a text in UTF-8"),
        (b"a" * 2001, "has 2001 characters; expected at most 2000"),
        (b"a\nb\nc\nd\n", "--prompts gives 4 and --seeds 3"),
        (None, "no file; expected one with a prompt on each line"),
    ],
)
def test_a_file_that_holds_no_prompts(tmp_path, content, message):
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(JobError, match=message):
        parse_wishes([], tmp_path / "p.txt", [], "", 1.0, 3)


@pytest.mark.parametrize(
    ("prompts", "classes", "negative", "message"),
    [
        (["a"], ["1"], "", "more than one of --prompt, --prompts and --class"),
        (["a", "b", "c"], [], "", "--prompt gives 3 and --seeds 2"),
        ([], ["1", "2", "3"], "", "--class gives 3 and --seeds 2"),
        ([], ["0-1", "none"], "", "--class gives 3 and --seeds 2"),
        ([], ["0-999999999"], "", "--class gives 1000000000 and --seeds 2"),
        ([], ["3-2"], "", "--class is 3-2; expected the lower number first: 2-3"),
        ([], ["1-"], "", "--class is '1-'; expected .*, or a range such as 0-999"),
        ([], ["1-2-3"], "", "--class is '1-2-3'"),
        ([], ["none-3"], "", "--class is 'none-3'"),
        ([], ["0,1"], "", "--class is '0,1'"),
        (["a\udcff"], [], "", r'--prompt: "a\\udcff" is not UTF-8'),
        (["a"], [], "b" * 3000, '--negative: "bbb.* has 3000 characters'),
        ([], ["-1"], "", "--class is '-1'; expected a number from 0, or none"),
        ([], ["1.0"], "", "--class is '1.0'"),
        ([], ["9" * 5000], "", "--class is '9"),
        ([], ["²"], "", "--class is '²'"),
    ],
)
def test_options_that_are_none(prompts, classes, negative, message):
    with pytest.raises(JobError, match=message):
        parse_wishes(prompts, None, classes, negative, 1.0, 2)


# The folder


@pytest.mark.parametrize("wishes", [TEXTS, CLASSES], ids=["texts", "classes"])
@pytest.mark.parametrize("format_", Format)
def test_a_broken_run_is_completed_to_the_same_bytes(tmp_path, wishes, format_):
    job = job_of(wishes, format_=format_)
    fill(tmp_path / "whole", job)
    store(tmp_path / "broken", job, "0-4,7")
    fill(tmp_path / "broken", job)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    for line in manifest(tmp_path / "whole"):
        assert job.wish(line["seed"]).to_json().items() <= line.items()
        assert "prompts" not in line
    with JobFolder(tmp_path / "whole", job, verify=True) as folder:
        assert len(folder.done) == 10


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(TEXTS, prompts=("a woman", "a man")), "prompts is .*'red hair'.* there and .* now"),
        (replace(TEXTS, negative=""), "negative is 'glasses' there and '' now"),
        (replace(TEXTS, cfg=1.0), "cfg is 3.0 there and 1.0 now"),
        (Wishes(), "prompts is .* there and .* now.*negative is .*cfg is"),
        (CLASSES, r"classes is \[\] there and \[4, None\] now"),
    ],
)
def test_another_wish_is_another_job(tmp_path, other, message):
    store(tmp_path, job_of(TEXTS), "0-3")
    before = snapshot(tmp_path)
    with pytest.raises(JobError, match=f"{message}.*another --out"), JobFolder(tmp_path, job_of(other)):
        pass
    assert snapshot(tmp_path) == before


def test_more_seeds_go_on(tmp_path):
    """The turns go on where they were."""
    store(tmp_path, job_of(TEXTS, "0-3"), "0-3")
    with JobFolder(tmp_path, job_of(TEXTS, "0-9")) as folder:
        assert folder.done == {0, 1, 2, 3}


# The command


def test_pictures_of_texts(tmp_path, texts):
    options = ["--prompt", "a woman", "--prompt", "a man", "--negative", "red", "--cfg", 3, "--batch", 3]
    assert run(texts, "--seeds", "0-3", *options, *FAST, "--out", tmp_path)[0] == 0
    model = ldm_backend.load(texts, "cpu")
    expected = ldm_backend.generate(
        model, [0, 1, 2], 2, prompts=["a woman", "a man", "a woman"], negative="red", cfg=3.0
    )
    for seed, image in enumerate(expected):
        assert (read_png(tmp_path / f"seed-{seed}.png") == image).all()
    told = json.loads(read_png_info(tmp_path / "seed-1.png"))
    assert (told["prompt"], told["negative"], told["cfg"]) == ("a man", "red", 3.0)
    before = snapshot(tmp_path)
    (tmp_path / "seed-2.png").unlink()
    assert run(texts, "--seeds", "0-3", *options, *FAST, "--out", tmp_path)[0] == 0
    assert snapshot(tmp_path) == before


def test_pictures_of_a_file_of_texts(tmp_path, texts):
    (tmp_path / "prompts.txt").write_text("a woman\na man\n")
    code, _ = run(texts, "--seeds", "4,5", "--prompts", tmp_path / "prompts.txt", *FAST, "--out", tmp_path / "out")
    assert code == 0
    assert [line["prompt"] for line in manifest(tmp_path / "out")] == ["a woman", "a man"]


def test_pictures_of_classes(tmp_path, classes):
    options = ["--class", 4, "--class", "none", "--cfg", 2]
    assert run(classes["guided"], "--seeds", "0-2", *options, *FAST, "--batch", 3, "--out", tmp_path)[0] == 0
    model = ldm_backend.load(classes["guided"], "cpu")
    expected = ldm_backend.generate(model, [0, 1, 2], 2, classes=[4, None, 4], cfg=2.0)
    for seed, image in enumerate(expected):
        assert (read_png(tmp_path / f"seed-{seed}.png") == image).all()
    assert [line["class"] for line in manifest(tmp_path)] == [4, None, 4]


def test_another_vocabulary_is_another_job(tmp_path, texts):
    """Though all weights and settings are the same."""
    options = ["--seeds", 1, "--prompt", "a woman", *FAST, "--out", tmp_path / "out"]
    assert run(texts, *options)[0] == 0
    words = texts / "tokenizer" / "vocab.txt"
    text = words.read_text()
    words.write_text(text.replace("woman\nman\n", "man\nwoman\n"))
    try:
        code, message = run(texts, *options)
    finally:
        words.write_text(text)
    assert code == 2
    assert "checkpoint is" in message


def test_what_the_model_does_not_see_is_said_once(tmp_path, texts, caplog: pytest.LogCaptureFixture):
    prompts = [f"zebra{at} a woman" for at in range(12)]
    options = [part for prompt in prompts for part in ("--prompt", prompt)]
    assert run(texts, "--seeds", "0-23", *options, *FAST, "--batch", 8, "--out", tmp_path)[0] == 0
    said = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert len(said) == 11
    assert '"zebra9"' in said[9]
    assert said[10] == "2 more prompts are too long, or have words that the model does not know."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--prompt or --prompts is needed"),
        (["--class", 1], "--prompt or --prompts is needed, and --class is not: this model draws pictures of what a te"),
        (["--negative", "a"], "--prompt or --prompts is needed"),
        (["--prompt", "a", "--cfg", "nan"], "cfg is nan; expected a number"),
        (["--prompt", "a", "--cfg", "inf"], "cfg is inf"),
        (["--prompt", "a", "--class", 1], "more than one of"),
    ],
)
def test_what_a_model_of_texts_refuses(tmp_path, texts, options, message):
    code, said = run(texts, "--seeds", 1, *options, *FAST, "--out", tmp_path / "out")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("guided", [], "--class is needed, and no text: this model draws pictures of classes"),
        ("guided", ["--prompt", "a"], "--class is needed, and no text"),
        ("guided", ["--class", 1, "--negative", "a"], "Give a number from 0 to 4, or none"),
        ("guided", ["--class", 5], "--class is 5; this model has 0 to 4, or none"),
        ("unguided", ["--class", "none"], "--class is none; this model has 0 to 4"),
        ("unguided", ["--class", 1, "--cfg", 2], "--cfg is 2.0; expected 1, as this model has no class that is none"),
    ],
)
def test_what_a_model_of_classes_refuses(tmp_path, classes, name, options, message):
    code, said = run(classes[name], "--seeds", 1, *options, *FAST, "--out", tmp_path / "out")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--prompt", "a"], "--prompt"),
        (["--class", 1], "--class"),
        (["--negative", "a"], "--negative"),
        (["--cfg", 2], "--cfg"),
    ],
)
def test_a_model_of_neither_takes_none(tmp_path, tiny, options, first):
    folder = write_model_folder(tmp_path / "tiny", tiny.config)
    code, said = run(folder, "--seeds", 1, *options, *FAST, "--out", tmp_path / "out")
    assert code == 2
    assert f"{first} is given, and this model draws pictures from noise alone. Leave it out" in said


def test_models_that_see_pictures_are_refused_as_before(tmp_path):
    folder = write_conditional_folder(tmp_path / "upscaler", SUPER_RESOLUTION)
    code, said = run(folder, "--seeds", 1, "--prompt", "a", *FAST, "--out", tmp_path / "out")
    assert code == 2
    assert "ldm generate takes an unconditional model, and this one is a super-resolution model" in said
