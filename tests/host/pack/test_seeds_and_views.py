"""Walks, variations, contact sheets and code views on the real host."""

import json
import re

import numpy as np
import pytest

import ldm_backend
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.views.code_view import view_codes
from ldm_backend.views.contact_sheet import plan

SIZE = {"width": 64, "height": 64}


@pytest.fixture
def pictures(graph):
    """Adds sampler, decoder and SaveImage behind a noise; returns (sampled latent, images, saver)."""
    loader = graph.checkpoint()

    def add(noise, **sampler):
        sampled = graph.ddim(loader, noise, **sampler)
        images = graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])
        return sampled, images, graph.save(images)

    return add


def sheet(graph, images, latent=None, columns=0):
    inputs = {"images": images[0], "columns": columns} | ({"latent": latent[0]} if latent else {})
    return graph.save(graph.add("LDMContactSheet", **inputs))


def test_seed_walk_on_a_line(graph, run, tiny, assert_same_images, pictures):
    """Its ends are the images of the two seeds, and what lies between differs from both."""
    walk = graph.add("LDMSeedWalk", seed_from=3, seed_to=9, frames=5, path="line", **SIZE)
    _, _, saved = pictures(walk)
    images = run(graph)[saved.id]
    assert images.shape == (5, 64, 64, 3)
    assert_same_images(images[[0, -1]], ldm_backend.generate(tiny, seeds=[3, 9], steps=5))
    assert len({image.tobytes() for image in images}) == 5


def test_seed_walk_on_a_circle(graph, run, tiny, assert_same_images, pictures):
    """A quarter of the way is the other seed."""
    walk = graph.add("LDMSeedWalk", seed_from=3, seed_to=9, frames=8, path="circle", **SIZE)
    _, _, saved = pictures(walk, steps=3)
    images = run(graph)[saved.id]
    assert len(images) == 8
    assert_same_images(images[[0, 2]], ldm_backend.generate(tiny, seeds=[3, 9], steps=3))


def test_latent_walk_of_noise_is_the_seed_walk(graph, run, assert_same_images, pictures):
    seeds = graph.add("LDMSeedWalk", seed_from=5, seed_to=6, frames=4, path="line", **SIZE)
    latents = graph.add(
        "LDMLatentWalk", latent_from=graph.noise(5)[0], latent_to=graph.noise(6)[0], frames=4, path="line"
    )
    saved = [pictures(walk, steps=3)[2] for walk in (seeds, latents)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])


def test_latent_walk_of_finished_batches(graph, run, assert_same_images, pictures):
    """Two pairs are two walks, one after the other, whose ends are the finished images."""
    start, _, from_images = pictures(graph.noise(10, 2))
    end, _, to_images = pictures(graph.noise(20, 2))
    walk = graph.add("LDMLatentWalk", latent_from=start[0], latent_to=end[0], frames=3, path="line")
    saved = graph.save(graph.add("LDMVQDecode", vae=graph.checkpoint()[1], latent=walk[0]))
    result = run(graph)
    assert_same_images(result[saved.id][[0, 3]], result[from_images.id])
    assert_same_images(result[saved.id][[2, 5]], result[to_images.id])


def test_seed_variations(graph, run, tiny, assert_same_images, pictures):
    """The first image is the seed's own; the step grows with the strength, up to the variation seed's image."""
    nodes = [
        graph.add("LDMSeedVariations", seed=3, variation_seed=50, variations=2, strength=strength, **SIZE)
        for strength in (0.0, 0.1, 0.5, 1.0)
    ]
    saved = [pictures(node)[2] for node in nodes]
    result = run(graph)
    images = [result[node.id] for node in saved]
    own, others = ldm_backend.generate(tiny, seeds=[3], steps=5), ldm_backend.generate(tiny, seeds=[50, 51], steps=5)
    for batch in images:
        assert_same_images(batch[:1], own)
    assert_same_images(images[0][1:], np.concatenate([own, own]))
    assert_same_images(images[3][1:], others)
    distances = [np.abs(batch[1].astype(int) - own[0]).mean() for batch in images]
    assert distances == sorted(distances)


def test_variations_do_not_depend_on_their_number(graph, run, assert_same_images, pictures):
    """Variation 51 alone is variation 51 of many."""
    many, one = (
        graph.add("LDMSeedVariations", seed=3, variation_seed=seed, variations=count, strength=0.3, **SIZE)
        for seed, count in ((50, 3), (51, 1))
    )
    saved = [pictures(node)[2] for node in (many, one)]
    result = run(graph)
    assert_same_images(result[saved[0].id][2:3], result[saved[1].id][1:])


def test_a_walk_has_no_seed_for_step_noise(graph, pictures, refusal):
    """eta above 0 asks for one instead of guessing."""
    walk = graph.add("LDMSeedWalk", seed_from=3, seed_to=9, frames=2, path="line", **SIZE)
    pictures(walk, eta=1.0)
    assert "carries no seed" in refusal(graph, "LDMDDIMSampler")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed_to": 3, "path": "circle"}, "span no circle"),
        ({"path": "spiral"}, "line'?, '?circle"),
        ({"width": 50}, "multiple"),
    ],
)
def test_walks_that_cannot_be(graph, pictures, changes, message, refusal):
    inputs = {"seed_from": 3, "seed_to": 9, "frames": 4, "path": "line", **SIZE} | changes
    pictures(graph.add("LDMSeedWalk", **inputs))
    assert re.search(message, refusal(graph, "LDMSeedWalk"))


def test_latent_walk_of_unequal_batches(graph, pictures, refusal):
    walk = graph.add(
        "LDMLatentWalk", latent_from=graph.noise(1, 2)[0], latent_to=graph.noise(5)[0], frames=3, path="line"
    )
    pictures(walk)
    message = refusal(graph, "LDMLatentWalk")
    assert "(2, 3, 16, 16)" in message
    assert "(1, 3, 16, 16)" in message


def test_contact_sheet(graph, run, pictures):
    """The images appear unchanged, with captions that depend on the latent."""
    sampled, images, saved = pictures(graph.noise(31, 5))
    sheets = [sheet(graph, images, latent, columns) for latent, columns in ((sampled, 3), (None, 3), (sampled, 0))]
    result = run(graph)
    layout = plan(5, 64, 64, 3)
    seeds, numbers, automatic = (result[node.id] for node in sheets)
    assert seeds.shape == numbers.shape == automatic.shape == (1, layout.sheet_height, layout.sheet_width, 3)
    np.testing.assert_array_equal(seeds, automatic)
    covered = np.zeros(seeds.shape[1:3], dtype=bool)
    for index, image in enumerate(result[saved.id]):
        top, left = layout.corner(index)
        np.testing.assert_array_equal(seeds[0, top : top + 64, left : left + 64], image)
        covered[top : top + 64 + layout.caption_height, left : left + 64] = True
    changed = (seeds != numbers)[0].any(axis=2)
    assert changed.any()
    assert not changed[~covered].any()


def test_captions_follow_a_picked_image(graph, run, pictures):
    """An image taken out of a walk keeps its text: its sheet is that of a batch whose only image is this one."""
    walk = graph.add("LDMSeedWalk", seed_from=3, seed_to=9, frames=3, path="line", **SIZE)
    picked = graph.add("LatentFromBatch", samples=walk[0], batch_index=2, length=1)
    end = graph.add("LDMSeedWalk", seed_from=9, seed_to=3, frames=2, path="line", **SIZE)
    first = graph.add("LatentFromBatch", samples=end[0], batch_index=0, length=1)  # also "seed 9"
    saved = []
    for latent in (picked, first):
        sampled, images, _ = pictures(latent, steps=2)
        saved.append(sheet(graph, images, sampled))
    result = run(graph)
    np.testing.assert_array_equal(result[saved[0].id], result[saved[1].id])


def test_joined_batches_are_numbered(graph, run, pictures):
    """LatentBatch keeps the texts of its first input only, which would be wrong for the second."""
    walks = [graph.add("LDMSeedWalk", seed_from=seed, seed_to=9, frames=2, path="line", **SIZE) for seed in (3, 4)]
    joined = graph.add("LatentBatch", samples1=walks[0][0], samples2=walks[1][0])
    sampled, images, _ = pictures(joined, steps=2)
    with_latent, without = sheet(graph, images, sampled), sheet(graph, images)
    result = run(graph)
    np.testing.assert_array_equal(result[with_latent.id], result[without.id])


def test_contact_sheet_of_other_latents(graph, pictures, refusal):
    _, images, _ = pictures(graph.noise(1, 3), steps=1)
    sheet(graph, images, graph.noise(1, 2))
    assert "3 images but 2 latents" in refusal(graph, "LDMContactSheet")


def test_code_view(graph, run, client, tiny, pictures):
    """Pictures of the size of the image, and quantised latents that decode to the same bytes."""
    sampled, _, plain = pictures(graph.noise(3, 2))
    loader = graph.checkpoint()
    view = graph.add("LDMCodeView", vae=loader[1], latent=sampled[0])
    codes, distance = graph.save(view), graph.add("SaveImage", images=view[1], filename_prefix="test")
    again = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=view[2]))
    text = graph.add("PreviewAny", source=view[3])
    result = run(graph)
    np.testing.assert_array_equal(result[again.id], result[plain.id])
    assert result[codes.id].shape == result[distance.id].shape == (2, 64, 64, 3)
    assert (result[codes.id][:, ::4, ::4] == result[codes.id][:, 3::4, 3::4]).all()  # blocks of 4 pixels
    prompt_id = client.submit(graph.prompt)
    client.follow(prompt_id)
    entry = client.history(prompt_id)
    assert entry is not None
    (report,) = entry["outputs"][text.id]["text"]
    lines = (json.loads(report) if report.startswith('"') else report).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seed 3", "seed 4"]
    assert all("of 64 codes in 256 cells" in line for line in lines)


def test_code_view_is_that_of_the_backend(graph, run, tiny, assert_same_images):
    view = graph.add("LDMCodeView", vae=graph.checkpoint()[1], latent=graph.noise(7)[0])
    codes, distance = graph.save(view), graph.add("SaveImage", images=view[1], filename_prefix="test")
    result = run(graph)
    expected = view_codes(tiny.first_stage, draw_noise([7], (3, 16, 16)))
    for node, picture in ((codes, expected.codes), (distance, expected.distance)):
        assert_same_images(result[node.id], (picture.numpy() * 255).astype(np.uint8))


def test_code_view_of_a_foreign_latent(graph, refusal):
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph.save(graph.add("LDMCodeView", vae=graph.checkpoint()[1], latent=latent[0]))
    assert "(1, 4, 16, 16)" in refusal(graph, "LDMCodeView")
