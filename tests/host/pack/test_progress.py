"""Progress and cancelling. Previews are in test_loading, whose host has them switched on."""

from ldm_headless import ComfyClient, Event


def test_progress_counts_the_steps(graph, run):
    """One message a step, on the sampler's node."""
    graph.core(seed=100, steps=7)
    values = []

    def remember(event: Event) -> None:
        if event.type == "progress" and event.data.get("node") == "3":
            values.append((event.data["value"], event.data["max"]))

    run(graph, remember)
    # The host may leave out messages that follow each other quickly; the order and the last one are certain.
    assert values == sorted(values)
    assert values[-1] == (7, 7)


def test_cancel_stops_within_a_step(graph, client: ComfyClient, progress_until_cancelled):
    """Cancelled at the first step of a run of 1000, the host is free at once and the next prompt works."""
    graph.core(seed=200, steps=1000, batch_size=16)
    assert progress_until_cancelled(graph, "3")[-1] < 100
    good = type(graph)()
    good.core(seed=201, steps=1)
    client.follow(client.submit(good.prompt))
