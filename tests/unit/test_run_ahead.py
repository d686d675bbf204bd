"""What runs do on a card: check each evaluation one late and draw noise ahead. Here with both forced onto the CPU."""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.editing.inpainting import inpaint, repaint_moves
from ldm_backend.editing.inversion import invert_ddim
from ldm_backend.errors import SamplingError
from ldm_backend.sampling import evaluations, step_noise
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, Denoiser, adds_noise, drawn_ahead, sample
from ldm_backend.sampling.schedule import Schedule

SCHEDULE = Schedule(ScheduleConfig())
CPU = torch.device("cpu")
SEEDS, SHAPE = [1, 2, 3], (3, 8, 8)
PAIRS = SCHEDULE.timesteps(5, "trailing")
THREAD = "step noise"

Run = Callable[..., Tensor]  # (eps_model, callback=None)


def _sampler(name: str, eta: float = 0.0) -> Run:
    def run(eps_model: Denoiser, callback: Any = None) -> Tensor:
        noise = StepNoise(SEEDS, SHAPE) if adds_noise(name, eta) else None
        x_T = draw_noise(SEEDS, SHAPE)
        return sample(name, eps_model, x_T, SCHEDULE, PAIRS, eta=eta, step_noise=noise, callback=callback)

    return run


def _inversion(eps_model: Denoiser, callback: Any = None) -> Tensor:
    return invert_ddim(eps_model, draw_noise(SEEDS, SHAPE), SCHEDULE, PAIRS, 2, callback)


def _inpainting(eps_model: Denoiser, callback: Any = None) -> Tensor:
    mask = torch.zeros(len(SEEDS), 1, *SHAPE[1:], dtype=torch.bool)
    mask[..., 4:] = True
    x_0, moves = draw_noise([7, 8, 9], SHAPE), repaint_moves(PAIRS, 2, 2)
    return inpaint(
        eps_model, draw_noise(SEEDS, SHAPE), x_0, mask, SCHEDULE, moves, StepNoise(SEEDS, SHAPE), callback
    )  # fmt: skip


RUNS: dict[str, Run] = {name: _sampler(name) for name in SAMPLERS}
RUNS |= {"ddim with eta": _sampler("ddim", 1.0), "inversion": _inversion, "inpainting": _inpainting}


class PaperEvent:
    """An event of a card, which notes when it is recorded and waited for."""

    log: list[tuple[str, int]]
    made: int

    def __init__(self, **_: Any) -> None:
        self.number = PaperEvent.made
        PaperEvent.made += 1

    def record(self, stream: Any) -> None:
        PaperEvent.log.append(("record", self.number))

    def synchronize(self) -> None:
        PaperEvent.log.append(("wait", self.number))


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU taken for a card, without the calls that need one; no thread may be left."""
    PaperEvent.log, PaperEvent.made = [], 0
    for module in (evaluations, step_noise):
        monkeypatch.setattr(module, "runs_ahead", lambda device: True)
    monkeypatch.setattr(torch.cuda, "Event", PaperEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    yield
    assert not noise_threads()


def noise_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


class Model:
    """0.9 x, and NaN or infinity in some images at one call."""

    def __init__(self, bad_call: int | None = None, value: float = math.nan, images: tuple[int, ...] = (1, 2)) -> None:
        self.bad_call, self.value, self.images, self.calls = bad_call, value, images, 0

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        eps = 0.9 * x_t
        if self.calls == self.bad_call:
            eps[list(self.images), 0, 3, 3] = self.value
        PaperEvent.log.append(("start", self.calls))
        self.calls += 1
        return eps


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    PaperEvent.log = []


def counted_calls(run: Run) -> int:
    model = Model()
    run(model)
    return model.calls


def refusal(run: Run, model: Model) -> str:
    with pytest.raises(SamplingError) as caught:
        run(model)
    return str(caught.value)


@pytest.mark.parametrize("name", RUNS)
def test_latents_are_the_same_to_the_bit(name, request):
    expected = RUNS[name](Model())
    request.getfixturevalue("ahead")
    assert torch.equal(RUNS[name](Model()), expected)


@pytest.mark.parametrize("name", RUNS)
def test_each_evaluation_is_waited_for_once_when_the_next_has_been_started(name, ahead):
    """So the card has work while the CPU waits, the CPU is one evaluation ahead at most, and the last is checked."""
    model = Model()
    RUNS[name](model)
    last = model.calls - 1
    expected = [("start", 0), ("record", 0)]
    for call in range(1, model.calls):
        expected += [("start", call), ("record", call), ("wait", call - 1)]
    assert PaperEvent.log == [*expected, ("wait", last)]


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", RUNS)
def test_a_late_check_says_what_an_immediate_one_says(name, where, request):
    run, value = RUNS[name], math.inf if where == "middle" else math.nan
    last = counted_calls(run) - 1
    bad_call = {"first": 0, "middle": last // 2, "last": last}[where]
    expected = refusal(run, Model(bad_call, value))
    assert "for 2 of 3 images, the first at index 1; its input was finite" in expected
    request.getfixturevalue("ahead")
    model = Model(bad_call, value)
    assert refusal(run, model) == expected
    assert model.calls == min(bad_call + 1, last) + 1, "one more evaluation at most"


def test_a_late_check_knows_an_input_that_was_not_finite(ahead):
    x_T = draw_noise(SEEDS, SHAPE)
    x_T[2, 0, 0, 0] = math.nan
    with pytest.raises(SamplingError, match=r"step 1 of 5 .* first at index 2; its input was already not finite"):
        sample("ddim", Model(), x_T, SCHEDULE, PAIRS)


class StopRunError(Exception):
    """What a host raises when its user cancels."""


@pytest.mark.parametrize("name", RUNS)
def test_what_a_callback_raises_stays_and_nothing_is_kept(name, ahead):
    """Also where the evaluation before was NaN, which is then of no interest."""
    seen: list[weakref.ref[Tensor]] = []
    bad = Model(bad_call=int(name == "plms"))  # the last call before the callback

    def model(x_t: Tensor, t: float) -> Tensor:
        seen.append(weakref.ref(x_t))
        return bad(x_t, t)

    def callback(info: Any) -> None:
        raise StopRunError

    with pytest.raises(StopRunError) as caught:
        RUNS[name](model, callback)
    assert caught.value.__context__ is None
    assert not noise_threads()
    del caught
    gc.collect()
    assert not any(one() is not None for one in seen)


@pytest.mark.parametrize("name", RUNS)
def test_what_the_model_raises_stays(name, ahead):
    def model(x_t: Tensor, t: float) -> Tensor:
        raise StopRunError

    with pytest.raises(StopRunError) as caught:
        RUNS[name](model)
    assert caught.value.__context__ is None


def test_on_the_cpu_nothing_is_late_and_there_is_no_thread():
    threads = []
    model = Model(bad_call=2)
    with pytest.raises(SamplingError, match="step 3 of 5"):
        _sampler("ddpm")(model, lambda info: threads.extend(noise_threads()))
    assert model.calls == 3
    assert not threads


class SlowNoise(StepNoise):
    """Counts its draws; can take its time, and fail at one."""

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None) -> None:
        super().__init__(SEEDS, SHAPE)
        self.seconds, self.fails_at, self.drawn = seconds, fails_at, 0

    def __call__(self) -> Tensor:
        time.sleep(self.seconds)
        if self.drawn == self.fails_at:
            raise StopRunError
        self.drawn += 1
        return super().__call__()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_noise_drawn_ahead_is_the_same_in_the_same_order(mode, ahead):
    plain, noise = StepNoise(SEEDS, SHAPE), SlowNoise()
    with mode(), drawn_ahead(noise, CPU, 6) as draw:
        for number in range(6):
            time.sleep(0.02)
            assert noise.drawn <= number + 1, "one ahead"
            assert torch.equal(draw() + 0, plain())
    assert noise.drawn == 6, "none too many: its owner may go on with it"


def test_noise_is_drawn_while_the_run_goes_on(ahead):
    noise = SlowNoise()
    with drawn_ahead(noise, CPU, 3) as draw:
        draw()
        deadline = time.monotonic() + 10
        while noise.drawn < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert noise.drawn == 2


def test_noise_goes_through_pinned_memory_that_no_draw_shares(ahead, monkeypatch):
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda noise: pinned.append(noise.clone()) or pinned[-1])
    with drawn_ahead(StepNoise(SEEDS, SHAPE), CPU, 4) as draw:
        got = [draw() for _ in range(4)]
    assert [one.data_ptr() for one in got] == [one.data_ptr() for one in pinned]
    assert len({one.data_ptr() for one in pinned}) == 4


def test_what_drawing_raises_comes_at_its_own_draw(ahead):
    with drawn_ahead(SlowNoise(fails_at=2), CPU, 5) as draw:
        for _ in range(2):
            draw()
        with pytest.raises(StopRunError):
            draw()
    assert not noise_threads()


def test_an_exception_ends_the_thread_in_the_middle_of_a_draw(ahead):
    with pytest.raises(StopRunError), drawn_ahead(SlowNoise(seconds=0.2), CPU, 5):
        raise StopRunError
    assert not noise_threads()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no signals for threads")
def test_control_c_ends_a_run_that_waits_for_noise(ahead):
    main = threading.main_thread().ident
    assert main is not None
    noise = SlowNoise(seconds=0.5)
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt), drawn_ahead(noise, CPU, 5) as draw:
        draw()
    assert time.monotonic() - began < 1.0
    assert not noise_threads()


def test_other_sources_are_called_by_the_run_itself(ahead):
    """They may be bound to their thread, or to the state of the moment."""
    callers = []

    def source() -> Tensor:
        callers.append(threading.current_thread())
        return torch.zeros(1)

    with drawn_ahead(source, CPU, 3) as draw:
        assert not callers
        draw()
    assert callers == [threading.current_thread()]
