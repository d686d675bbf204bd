"""The pretended card itself: it refuses what a card refuses, says what it is asked for, and leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pretend_cuda import Log, pretend_card
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, scaled_dot_product_attention, silu

CUDA = torch.device("cuda")


@pytest.fixture
def log() -> Iterator[Log]:
    with pretend_card() as log, torch.no_grad():
        yield log


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The card


def test_it_leaves_torch_as_it_was():
    names = [name for name in dir(torch.cuda) if not name.startswith("__")]

    def state() -> list[Any]:
        makers = [torch.empty, torch.empty_like, torch.zeros, torch.Tensor.is_pinned, torch.Tensor.pin_memory]
        return [getattr(torch.cuda, name) for name in names] + makers + [torch.version.cuda]

    before = state()
    with pretend_card():
        kept = torch.ones(2, device="cuda")
        assert torch.cuda.is_available()
        assert not torch.backends.cuda.matmul.allow_tf32
    assert all(one is other for one, other in zip(state(), before, strict=True))
    with pytest.raises(RuntimeError, match="is gone"):
        _ = kept + 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2, device="cuda")
    with pytest.raises(ZeroDivisionError), pretend_card():
        raise ZeroDivisionError
    assert all(one is other for one, other in zip(state(), before, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_tensors_are_on_the_card_in_every_mode_and_thread(mode: Callable[[], Any]):
    def work() -> None:
        with mode():
            for made in (
                torch.ones(3).to("cuda"), torch.zeros(3, device="cuda"), torch.tensor([1.0], device="cuda"),
                torch.arange(3, device=CUDA), torch.ones(3).cuda() + 1, torch.ones(3, device="cuda").half()[1:],
                torch.zeros_like(torch.ones(3), device="cuda"), linear(draw(2, 3).cuda(), draw(4, 3).cuda()),
                torch.nn.Linear(2, 2).to("cuda").weight,
            ):  # fmt: skip
                assert made.device == torch.device("cuda", 0)
                assert made.is_cuda
                assert made.to("cuda") is made
                assert type(made.cpu()) in (Tensor, torch.nn.Parameter)
            shared = torch.zeros(2, 3, device="cuda")
            shared[0].add_(1)
            assert shared.unsqueeze(0).tolist() == [[[1, 1, 1], [0, 0, 0]]]
            assert shared.unsqueeze_(0).shape == (1, 2, 3)

    errors: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    with pretend_card():
        work()
        thread = threading.Thread(target=watched)
        thread.start()
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize(
    "mix",
    [
        lambda far, near: far + near,
        lambda far, near: near + far,
        lambda far, near: linear(far, near),
        lambda far, near: torch.cat([far, near]),
        lambda far, near: near[far[:, 0].long()],
        lambda far, near: near.add_(far.sum()),
        lambda far, near: torch.add(far, far, out=near),
        lambda far, near: torch.mm(far, near.half().cuda()),
        lambda far, near: conv2d(far[None, None], near[None, None].half().cuda()),
        lambda far, near: scaled_dot_product_attention(far, far, near),
    ],
)
def test_devices_and_formats_do_not_mix(log, mix):
    far = torch.ones(2, 2, device="cuda")
    with pytest.raises(RuntimeError, match="same device|same dtype"):
        mix(far, torch.ones(2, 2))
    assert len(log.of("mismatch")) == 1


def test_numbers_and_indices_of_the_cpu_are_taken(log):
    far = torch.ones(3, device="cuda")
    assert (far * torch.tensor(2.0)).tolist() == [2, 2, 2]
    log.cut()
    assert far[torch.tensor([0, 2])].shape == (2,)
    assert [copy.what for copy in log.cut().copies] == ["H2D"]
    with pytest.raises(TypeError, match="numpy"):
        far.numpy()


@pytest.mark.parametrize(
    ("what", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.equal(x), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.as_tensor(0.5, device=x.device), 1),
        (lambda x: torch.cuda.synchronize(), 1),
        (lambda x: torch.full((2,), 0.5, device=x.device), 0),
        (lambda x: torch.arange(3, device=x.device), 0),
        (lambda x: silu(x.view(1, 3).transpose(0, 1)), 0),
        (lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True), 0),
        (lambda x: torch.empty(3, pin_memory=True).copy_(x, non_blocking=True), 0),
    ],
)
def test_waits_are_logged_with_their_place(log, what, waits):
    x = torch.ones(3, device="cuda")
    log.cut()
    what(x)
    part = log.cut()
    assert len(part.syncs) == waits
    assert all(act.where.startswith("unit/test_pretend_cuda.py:") for act in part.syncs + part.copies)


def test_copies_say_what_is_pinned(log):
    torch.ones(3).to("cuda", non_blocking=True)
    torch.ones(3).pin_memory()[1:].to("cuda", non_blocking=True)
    torch.ones(3).pin_memory().to("cuda")
    assert [(copy.non_blocking, copy.pinned) for copy in log.copies] == [(True, False), (True, True), (False, True)]
    assert [copy.waits for copy in log.copies] == [True, False, True]


def test_launches_are_operators_with_a_kernel(log):
    x = torch.ones(1, 4, 2, 2, device="cuda")
    q = torch.ones(1, 1, 4, 8, device="cuda")
    log.cut()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            conv2d(x.view(1, 4, 2, 2), torch.empty(4, 4, 1, 1, device="cuda"))
            silu(group_norm(x, 2), inplace=True)
            linear(x.flatten(2), torch.empty(4, 4, device="cuda"), torch.empty(4, device="cuda"))
            scaled_dot_product_attention(q, q, q)
        assert log.cut().launches == [
            "convolution",
            "native_group_norm",
            "silu_",
            "addmm",
            "scaled_dot_product_attention",
        ]
    torch.cuda.mem_get_info()
    torch.cuda.memory_reserved()
    assert [act.what for act in log.cut().queries] == ["mem_get_info", "memory_reserved"]


# Events and copies that nobody waits for


def test_an_event_behind_which_there_is_work_is_waited_for_late(log):
    flag, event = torch.empty(2, pin_memory=True).fill_(7), torch.cuda.Event()
    x = torch.ones(2, device="cuda")
    flag.copy_(x, non_blocking=True)
    event.record()
    assert not event.query()
    assert flag.tolist() == [7, 7], "a card is in no hurry"
    x.add_(1)
    log.cut()
    event.synchronize()
    assert flag.tolist() == [1, 1]
    assert ([act.kind for act in log.cut().acts]) == ["late wait"]
    event.record(torch.cuda.current_stream())
    event.synchronize()
    assert [act.kind for act in log.cut().acts] == ["sync"]


def test_pinned_memory_is_left_alone_until_its_copy_is_done(log):
    memory, event = torch.ones(2).pin_memory(), torch.cuda.Event()
    memory.to("cuda", non_blocking=True)
    event.record()
    event.synchronize()
    memory.fill_(2)
    torch.cuda.synchronize()
    assert not log.of("race")
    memory.to("cuda", non_blocking=True)
    memory.fill_(3)
    torch.cuda.synchronize()
    assert len(log.of("race")) == 1


def test_streams_belong_to_threads(log):
    stream, seen = torch.cuda.Stream(), []
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() is stream
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_stream()))
        thread.start()
        thread.join()
        torch.ones(2, device="cuda").record_stream(stream)
    assert torch.cuda.current_stream() is torch.cuda.default_stream() is seen[0]
    torch.cuda.current_stream().wait_stream(stream)
    assert not log.syncs
    stream.synchronize()
    assert len(log.syncs) == 1


# Graphs


def chain(x: Tensor) -> Tensor:
    return x @ x @ x


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:].add_(1)
    return y.mul_(y)


def views(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat([right.transpose(0, 1), left.reshape(2, 4)])


def scatter(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, ::2] = x[:, 1::2]
    return out.to(torch.float16)


def network(x: Tensor) -> Tensor:
    image = x.view(1, 4, 2, 2)
    h = silu(group_norm(conv2d(image, torch.full((4, 4, 3, 3), 0.1, device=x.device), padding=1), 2))
    tokens = h.flatten(2).transpose(1, 2)[None]
    return scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("function", [chain, in_place, views, scatter, network])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_replay_does_what_was_captured(log, function, mode):
    first, second = draw(4, 4), draw(4, 4, seed=1)
    with mode():
        x = first.to("cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            assert torch.cuda.is_current_stream_capturing()
            out = function(x)
        assert not torch.cuda.is_current_stream_capturing()
        assert not torch.isfinite(out).any(), "a capture computes nothing"
        assert x.cpu().equal(first)
        for values in (first, second, first):
            x.copy_(values)
            log.cut()
            graph.replay()
            assert log.cut().launches == ["CUDAGraph.replay"]
            assert out.cpu().equal(function(values))


def test_a_capture_leaves_older_memory_as_it_was_and_a_replay_writes_to_it(log):
    x, total = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total.add_(x * torch.tensor(3.0))
    assert total.tolist() == [0, 0]
    graph.replay()
    graph.replay()
    assert total.tolist() == [6, 6]
    graph.reset()
    with pytest.raises(RuntimeError, match="without a preceding"):
        graph.replay()


def test_pinned_copies_are_part_of_a_graph(log):
    source, target = torch.ones(2).pin_memory(), torch.zeros(2).pin_memory()
    x = torch.zeros(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.copy_(source, non_blocking=True)
        target.copy_(x + 1, non_blocking=True)
    assert target.tolist() == [0, 0]
    source.fill_(5)
    graph.replay()
    assert (x.tolist(), target.tolist()) == ([5, 5], [6, 6])


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(2)),
        lambda x: x.copy_(torch.ones(2), non_blocking=True),
        lambda x: x.copy_(torch.ones(2).pin_memory()),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x[x > 0],
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.current_stream().synchronize(),
        lambda x: torch.cuda.Event().synchronize(),
        lambda x: torch.cuda.mem_get_info(),
        lambda x: torch.cuda.empty_cache(),
    ],
)
def test_what_a_capture_refuses(log, forbidden):
    x = torch.ones(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="previous error during capture") as raised, torch.cuda.graph(graph):
        forbidden(x + 1)
    assert "operation not permitted when stream is capturing" in str(raised.value.__context__)
    assert not torch.cuda.is_current_stream_capturing()
    assert x.tolist() == [1, 1]


def test_other_threads_go_on_during_a_capture(log):
    x, seen = torch.ones(2, device="cuda"), []
    with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        thread = threading.Thread(target=lambda: seen.append(x.sum().item()))
        thread.start()
        thread.join()
    assert seen == [2]


def test_a_graph_does_not_outlive_the_memory_that_it_reads(log):
    """As when a host takes a model's weights off the card: a card would read what lies there now."""
    layer = torch.nn.Linear(2, 2).requires_grad_(False).to("cuda")
    x, graph = torch.ones(2, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(x)
    graph.replay()
    assert out.isfinite().all()
    layer.to("cpu")
    with pytest.raises(RuntimeError, match="memory that was freed"):
        graph.replay()
