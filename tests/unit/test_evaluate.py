"""`ldm evaluate`: the Frechet distance against closed forms, sets in all formats, pairs, refusals."""

import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generated import fill, make_job, store
from PIL import Image
from typer.testing import CliRunner

from ldm_headless.cli import app
from ldm_headless.errors import JobError
from ldm_headless.evaluation.comparison import compare_pairs, psnr, set_distance
from ldm_headless.evaluation.features import INCEPTION_FILE, Features, find_features, pixel_means
from ldm_headless.evaluation.frechet import Moments, frechet_distance
from ldm_headless.evaluation.image_sets import open_images
from ldm_headless.generation.job import Format, Job
from ldm_headless.generation.spread import Spread, spread_of
from ldm_headless.generation.wishes import NO_WISHES, Wishes

RNG_SEED = 5


def moments_of(features: np.ndarray, pieces: int = 1) -> Moments:
    moments = Moments(features.shape[1])
    for piece in np.array_split(features, pieces):
        moments.update(piece)
    return moments


def distance(a: Moments, b: Moments) -> float:
    return frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())


def rotation(size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(RNG_SEED).normal(size=(size, size)))[0]


# The distance


def test_commuting_gaussians_have_their_closed_form() -> None:
    """|m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2 where both covariances have the same axes."""
    generator, axes = np.random.default_rng(RNG_SEED), rotation(40)
    a, b = generator.uniform(0.1, 9.0, (2, 40))
    mean_a, mean_b = generator.normal(size=(2, 40))
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    got = frechet_distance(mean_a, (axes * a) @ axes.T, mean_b, (axes * b) @ axes.T)
    assert got == pytest.approx(expected, rel=1e-12)


def test_two_by_two_covariances_that_do_not_commute_have_theirs() -> None:
    """tr (A^1/2 B A^1/2)^1/2 = sqrt(tr AB + 2 sqrt(det AB)) in two dimensions."""
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    cross = math.sqrt(np.trace(a @ b) + 2.0 * math.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2.0 * cross
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances_are_no_obstacle() -> None:
    """Rank one each, at a right angle: nothing overlaps, so the traces add up."""
    a, b = np.diag([4.0, 0.0, 0.0]), np.diag([0.0, 9.0, 0.0])
    assert frechet_distance(np.zeros(3), a, np.zeros(3), b) == pytest.approx(13.0)
    assert frechet_distance(np.zeros(3), a, np.zeros(3), a) == pytest.approx(0.0, abs=1e-12)


def test_the_same_features_are_at_distance_zero() -> None:
    features = 50.0 + np.random.default_rng(RNG_SEED).normal(size=(500, 64)) @ rotation(64)
    same = moments_of(features)
    assert distance(same, moments_of(features, 7)) < 1e-9 * np.trace(same.covariance())


def test_moments_do_not_cancel_far_from_zero() -> None:
    features = 1e8 + np.random.default_rng(RNG_SEED).normal(size=(1000, 5))
    merged = moments_of(features, 30)
    assert np.allclose(merged.covariance(), np.cov(features - 1e8, rowvar=False), rtol=1e-6)
    assert np.allclose(merged.mean, features.mean(axis=0), rtol=1e-14)


def test_a_shift_of_all_images_shows_as_its_square() -> None:
    images = np.random.default_rng(RNG_SEED).integers(0, 200, (400, 8, 8, 3), dtype=np.uint8)
    features = pixel_means(images)
    assert np.array_equal(features, images.reshape(400, -1))
    assert distance(moments_of(features), moments_of(pixel_means(images + 3))) == pytest.approx(9.0 * 192, rel=1e-9)


# Sets


def random_images(count: int, side: int = 8, seed: int = RNG_SEED) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_pngs(folder: Path, images: np.ndarray, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, pixels in enumerate(images, first):
        Image.fromarray(pixels).save(folder / f"seed-{seed}.png")
    return folder


def test_all_formats_give_the_same_images(tmp_path: Path) -> None:
    images = random_images(5)
    folder = write_pngs(tmp_path / "png", images, first=10)
    (tmp_path / "tar").mkdir()
    for name, seeds in (("a.tar", (14, 10)), ("b.tar", (11, 12, 13))):
        with tarfile.open(tmp_path / "tar" / name, "w") as archive:
            for seed in seeds:
                archive.add(folder / f"seed-{seed}.png", f"seed-{seed}.png")
    np.savez(tmp_path / "plain.npz", images, seeds=np.arange(10, 15, dtype=np.uint64))
    np.savez_compressed(tmp_path / "small.npz", images, seeds=np.arange(10, 15))
    for name in ("png", "tar", "plain.npz", "small.npz"):
        found = open_images(tmp_path / name)
        assert sorted(found.keys, key=str) == [10, 11, 12, 13, 14]
        assert all(np.array_equal(found.read(seed), images[seed - 10]) for seed in range(10, 15))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds 0 PNG, 0 .tar and 0 .npz"),
        (lambda path: path.write_bytes(b"x"), "is no folder"),
        (lambda path: (write_pngs(path, random_images(1)), np.savez(path / "x.npz", 1)), "1 PNG, 0 .tar and 1 .npz"),
        (lambda path: (path.mkdir(), np.savez(path / "x.npz", np.zeros((2, 8, 8, 3)))), "float64"),
        (lambda path: (path.mkdir(), np.savez(path / "x.npz", random_images(2), seeds=[1])), "1 seeds for 2 images"),
        (lambda path: (path.mkdir(), np.savez(path / "x.npz", random_images(2), seeds=[1, 1])), "more than once"),
        (lambda path: (path.mkdir(), (path / "x.npz").write_bytes(b"PK")), "cannot read images"),
        (lambda path: (path.mkdir(), (path / "x.tar").write_bytes(b"junk" * 400)), "cannot read images"),
        (
            lambda path: (path.mkdir(), np.savez(path / "x.npz", np.array([{}], dtype=object))),
            "cannot read arr_0|object",
        ),
    ],
)
def test_a_set_that_is_none_is_explained(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    make(tmp_path / "set")
    with pytest.raises(JobError, match=message):
        open_images(tmp_path / "set")


def test_a_folder_of_a_sub_folder_for_each_class_is_one_set(tmp_path: Path) -> None:
    images = random_images(6)
    write_pngs(tmp_path / "n02", images[:2])
    write_pngs(tmp_path / "n01", images[2:5])
    write_pngs(tmp_path / ".pending", images[5:])
    found = open_images(tmp_path)
    assert found.keys == ("n01/seed-0", "n01/seed-1", "n01/seed-2", "n02/seed-0", "n02/seed-1")
    assert np.array_equal(found.read("n02/seed-1"), images[1])
    write_pngs(tmp_path, images[5:], first=7)
    assert open_images(tmp_path).keys == (7,)


def test_too_few_images_and_mixed_sizes_are_refused(tmp_path: Path) -> None:
    features = find_features("pixels")
    few = open_images(write_pngs(tmp_path / "few", random_images(192)))
    with pytest.raises(JobError, match="192 images; .* 192 features .* needs more than 192"):
        set_distance(few, few, features)
    write_pngs(tmp_path / "few", random_images(1, side=16), first=192)
    mixed = open_images(tmp_path / "few")
    with pytest.raises(JobError, match="is 16x16; expected 8x8|is 8x8; expected 16x16"):
        set_distance(mixed, mixed, features)


def test_the_distance_of_a_set_to_itself_is_zero_and_warns_of_its_size(tmp_path: Path) -> None:
    images = open_images(write_pngs(tmp_path / "a", random_images(200)))
    found = set_distance(images, images, find_features("pixels"))
    assert found.value == pytest.approx(0.0, abs=1e-5)
    assert found.name == "Frechet distance on 8x8 pixel means features"
    assert "200 images are few for 192 features" in found.warning


def test_the_encoder_of_a_checkpoint_gives_features(tiny_folder: Path) -> None:
    features = find_features(str(tiny_folder))
    vectors = features.extract(random_images(3, side=32))
    assert vectors.shape == (3, features.dimensions)
    assert "FID" not in features.name
    one = features.extract(random_images(3, side=32)[1:2])
    assert np.allclose(vectors[1:2], one, atol=1e-5)


def test_fid_is_only_for_the_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(JobError, match=f"its weights are not at .*{INCEPTION_FILE}"):
        find_features("inception")
    assert find_features(None).name == "8x8 pixel means"
    file = tmp_path / "hub" / "checkpoints" / INCEPTION_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    with pytest.raises(JobError, match="has the SHA-256 .*; remove it"):
        find_features("inception")


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x80\x02cos\nsystem\n", b"junk" * 1000])
def test_damaged_weights_of_inception_end_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    pytest.importorskip("torch_fidelity")
    from ldm_headless.evaluation import features

    file = tmp_path / "weights.pth"
    file.write_bytes(data)
    monkeypatch.setattr(features, "inception_path", lambda: file)
    monkeypatch.setattr(features, "_missing_for_inception", lambda: "")
    with pytest.raises(JobError, match=r"cannot read .*weights\.pth"):
        find_features("inception")


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    images = open_images(write_pngs(tmp_path / "a", random_images(5)))
    odd = Features("odd", 2, lambda chunk: np.full((len(chunk), 2), np.nan))
    with pytest.raises(JobError, match="odd: a feature of an image of .* is NaN or infinite"):
        set_distance(images, images, odd)


def test_inception_features_are_those_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, since the published ones are a download. The distance agrees with theirs, too."""
    pytest.importorskip("torch_fidelity")
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as theirs
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    from ldm_headless.evaluation import features

    file = tmp_path / "weights.pth"
    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: None)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), file)
    monkeypatch.setattr(features, "inception_path", lambda: file)
    monkeypatch.setattr(features, "_missing_for_inception", lambda: "")
    ours = find_features("inception")
    assert ours.is_fid
    images = random_images(2, side=32)
    (expected,) = network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert np.array_equal(ours.extract(images), expected.double().numpy())

    a, b = (moments_of(np.random.default_rng(n).normal(n, 1 + n, (300, 50))) for n in (0, 1))
    statistics = [{"mu": one.mean, "sigma": one.covariance()} for one in (a, b)]
    published = fid_statistics_to_metric(statistics[0], statistics[1], False)["frechet_inception_distance"]
    assert distance(a, b) == pytest.approx(published, rel=1e-9)


# Pairs and the command


def test_pairs_are_compared_by_seed(tmp_path: Path) -> None:
    images = random_images(4)
    images[1] = 100
    changed = images.copy()
    changed[1] += 5
    a = open_images(write_pngs(tmp_path / "a", images))
    b = open_images(write_pngs(tmp_path / "b", changed[1:], first=1))
    Image.fromarray(images[0]).save(tmp_path / "b" / "seed-9.png")
    pairs = compare_pairs(a, open_images(tmp_path / "b"))
    assert pairs is not None
    assert (pairs.count, pairs.identical, pairs.max_difference, pairs.worst) == (3, 2, 5, 1)
    assert pairs.psnr_min == pytest.approx(20 * math.log10(255 / 5))
    assert math.isinf(pairs.psnr_median)
    assert (pairs.only_in_a, pairs.only_in_b) == ((0,), (9,))
    assert compare_pairs(a, b) != pairs
    assert psnr(np.zeros((2, 2, 3))) == math.inf


def evaluate(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, JobError):
        return result.exception.exit_code, "", str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    images = random_images(200)
    a = write_pngs(tmp_path / "a", images)
    np.savez(tmp_path / "b.npz", images[::-1], seeds=np.arange(200)[::-1])
    np.savez(tmp_path / "c.npz", images)
    status, text, _ = evaluate(a, tmp_path / "b.npz", "--features", "pixels")
    assert status == 0
    assert "pairs: 200, identical: 200 (100.0%)" in text
    status, text, _ = evaluate(a, tmp_path / "b.npz", "--features", "pixels", "--json")
    found = json.loads(text)
    assert (found["pairs"]["count"], found["pairs"]["psnr_min"]) == (200, None)
    assert found["distance"]["value"] < 1e-5
    assert "pairs: none" in evaluate(a, tmp_path / "c.npz", "--no-distance")[1]
    assert evaluate(a, tmp_path / "absent")[0] == 2


# Over which texts and classes


def spread_job(wishes: Wishes, seeds: str, format_: Format = Format.PNG) -> Job:
    return replace(make_job(seeds, format_), wishes=wishes)


@pytest.mark.parametrize("format_", Format)
@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        (Wishes((), (0, 1, 2, None), "", 1.5), Spread("classes", 4, 2, 2, 1.5, "")),
        (Wishes((), (4, 4, 1), "", 1.0), Spread("classes", 2, 2, 6, 1.0, "")),
        (Wishes((), tuple(range(5)), "", 3), Spread("classes", 5, 1, 2, 3.0, "")),
        (Wishes(("a", "b"), (), "c", 1.0), Spread("prompts", 2, 4, 4, 1.0, "c")),
        (NO_WISHES, None),
    ],
)
def test_images_of_a_job_are_counted_by_class_or_text(
    tmp_path: Path, wishes: Wishes, expected: Spread | None, format_: Format
) -> None:
    fill(tmp_path, spread_job(wishes, "9,2-8", format_))
    assert spread_of(tmp_path, open_images(tmp_path).keys) == expected


def test_only_images_that_are_there_count(tmp_path: Path) -> None:
    store(tmp_path, spread_job(Wishes((), (0, 1, 2)), "0-5"), "0,1,3")
    found = spread_of(tmp_path, open_images(tmp_path).keys)
    assert found == Spread("classes", 3, 0, 2, 1.0, "")


JOB = {"settings": {"classes": [1, 2], "cfg": 2}, "seeds": "0-3"}


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "[1", json.dumps(JOB | {"seeds": [1]}), json.dumps(JOB | {"seeds": "3-1"}), '{"settings": 3}',
        *(
            json.dumps(JOB | {"settings": JOB["settings"] | change})  # pyright: ignore[reportOperatorIssue]
            for change in (
                {"classes": 3}, {"classes": [[1]]}, {"classes": [1.5]}, {"prompts": [1], "classes": []},
                {"cfg": "2"}, {"cfg": 10**400}, {"cfg": None}, {"cfg": -1e7}, {"negative": 3}, {"classes": []},
            )
        ),
    ],
)  # fmt: skip
def test_a_job_file_that_says_nothing_of_use_is_passed_over(tmp_path: Path, text: str) -> None:
    assert spread_of(tmp_path, [0, 1]) is None
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    assert spread_of(tmp_path, [0, 1]) == Spread("classes", 2, 1, 1, 2.0, "")
    (tmp_path / "job.json").write_text(text)
    assert spread_of(tmp_path, [0, 1]) is None


def test_the_command_tells_the_spread_and_warns_where_it_is_uneven(tmp_path: Path) -> None:
    images = random_images(200)
    for name, classes in (("a", range(40)), ("b", range(30))):
        write_pngs(tmp_path / name, images)
        job = spread_job(Wishes((), tuple(classes), "", 1.5), "0-199")
        (tmp_path / name / "job.json").write_text(json.dumps(job.to_json()))
    status, text, warned = evaluate(tmp_path / "a", tmp_path / "b", "--features", "pixels")
    assert status == 0
    assert "A: 40 classes, images of each: 5, cfg 1.5\nB: 30 classes, images of each: 6 to 7, cfg 1.5\n" in text
    told = " ".join(warned.split())
    assert "B is not spread evenly over its classes" in told
    assert "A is not spread" not in told
    found = json.loads(evaluate(tmp_path / "a", tmp_path / "b", "--no-distance", "--json")[1])
    spread = {"kind": "classes", "count": 40, "least": 5, "most": 5, "cfg": 1.5, "negative": ""}
    assert found["spread"]["a"] == spread
    assert (found["spread"]["b"]["most"], found["distance"]) == (7, None)
