"""The part `--peers` of speed.py: ours beside whatever else evaluates these networks on a CPU, each at its best.

The programs are alive at once and take turns in rounds; before each round it is noted what other programs make the
machine do. All together take 18 GB of memory. Where little more is there, the system drops the pages of our weights,
which are mapped from the file, between two rounds, and ours alone reads them anew: name few of them then.
One that is not installed, or fails, is left out with the reason.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import installed, spread
from speed_report import Section, difference
from speed_sides import TIMESTEP, Diffusers, Ours, Result, Worker, latents

TASKS = (("UNet, batch 1", "unet", 1), ("UNet, batch 4", "unet", 4), ("VQ decode", "decode", 1))
BUSY = 10.0  # percent of the machine that others took, from which on a run says that it was disturbed
BASE = "diffusers"
LIBRARIES = ("openvino", "onnxruntime", "psutil")


class OursShort(Ours):
    """ldm_backend with the UNet in bf16."""

    compiled = False

    def load(self, folder: Path) -> None:
        """The decoder stays in fp32, as by default."""
        self.model = self.backend.load(folder, device="cpu", precision="bf16", compiled=self.compiled)


class OursShortCompiled(OursShort):
    """With *compile*."""

    compiled = True


class DiffusersCompiled(Diffusers):
    """torch.compile with the weights frozen into what it makes."""

    def load(self, folder: Path) -> None:
        """Compiled at the first call of each size."""
        import torch
        import torch._inductor.config as inductor

        super().load(folder)
        inductor.freezing = True
        for network in (self.network, self.vq):
            network.eval().requires_grad_(False)
        self.network.forward = torch.compile(self.network.forward, dynamic=False)
        self.vq.decode = torch.compile(self.vq.decode, dynamic=False)


class DiffusersShort(Diffusers):
    """Both networks in bf16, channels_last."""

    def load(self, folder: Path) -> None:
        """As published for CPUs that have the format."""
        import torch

        super().load(folder)
        for network in (self.network, self.vq):
            network.to(torch.bfloat16, memory_format=torch.channels_last)

    def unet(self, batch: int) -> np.ndarray:
        """In float32, out in float32."""
        return self.network(latents(batch).bfloat16(), TIMESTEP).sample.float().numpy()

    def decode(self, batch: int, size: int = 64) -> np.ndarray:
        """In float32, out in float32."""
        return self.vq.decode(latents(batch, size).bfloat16()).sample.float().numpy()


class _Exported(Diffusers):
    """diffusers' networks as another program runs them: one model for each task and batch size."""

    def load(self, folder: Path) -> None:
        """The weights; exported at the first call of each size."""
        super().load(folder)
        self.folder = folder
        self.made: tuple[tuple[str, int], Any] | None = None

    def unet(self, batch: int) -> np.ndarray:
        """One evaluation."""
        return self._run("forward", self.network, batch, {"timestep": np.array(TIMESTEP)})

    def decode(self, batch: int, size: int = 64) -> np.ndarray:
        """Quantise and decode."""
        return self._run("decode", self.vq, batch, {})

    def _run(self, task: str, network: Any, batch: int, others: dict[str, np.ndarray]) -> np.ndarray:
        inputs = {"sample": latents(batch).numpy(), **others}
        if self.made is None or self.made[0] != (task, batch):
            self.made = None  # its memory goes first
            import torch

            with torch.inference_mode(False), torch.no_grad():
                examples = tuple(torch.from_numpy(value.copy()) for value in inputs.values())
                self.made = (task, batch), self.export(_returning_a_tensor(network, task), examples, list(inputs))
        return self.evaluate(self.made[1], inputs)

    def export(self, network: Any, examples: tuple[Any, ...], names: list[str]) -> Any:
        """Make what `evaluate` takes."""
        raise NotImplementedError

    def evaluate(self, model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """One call."""
        raise NotImplementedError


def _returning_a_tensor(network: Any, method: str) -> Any:
    """A module whose call is that method, as exporters want it; torch is imported by the measured processes alone."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> Any:
            return getattr(self.network, method)(*inputs).sample

    return Plain().eval().requires_grad_(False)


class OpenVINO(_Exported):
    """Intel's engine, in fp32."""

    precision = "f32"

    def export(self, network: Any, examples: tuple[Any, ...], names: list[str]) -> Any:
        """Converted and compiled for these shapes, for the shortest time of one call."""
        import openvino  # pyright: ignore[reportMissingImports]
        import torch

        shapes = [(name, list(example.shape)) for name, example in zip(names, examples, strict=True)]
        model = openvino.convert_model(network, example_input=examples, input=[shape for _, shape in shapes])
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        return openvino.Core().compile_model(model, "CPU", settings)

    def evaluate(self, model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """One call."""
        return np.array(model(list(inputs.values()))[0])


class OpenVINOShort(OpenVINO):
    """In bf16."""

    precision = "bf16"


class OnnxRuntime(_Exported):
    """Microsoft's engine, in fp32."""

    def export(self, network: Any, examples: tuple[Any, ...], names: list[str]) -> Any:
        """Exported to a file, and its session."""
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import torch

        file = self.folder / "peer.onnx"
        torch.onnx.export(network, examples, file, input_names=names, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        file.unlink()
        return session

    def evaluate(self, model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """One call; an input that the export has made a constant is not asked for."""
        wanted = {each.name for each in model.get_inputs()}
        return model.run(None, {name: value for name, value in inputs.items() if name in wanted})[0]


# Side -> program. Short formats behind the exact ones.
SIDES: dict[str, type] = {
    "ours": Ours,
    BASE: Diffusers,
    "diffusers, compiled": DiffusersCompiled,
    "OpenVINO": OpenVINO,
    "ONNX Runtime": OnnxRuntime,
    "ours, bf16": OursShort,
    "ours, bf16, compiled": OursShortCompiled,
    "diffusers, bf16": DiffusersShort,
    "OpenVINO, bf16": OpenVINOShort,
}


def peers(chosen: Collection[str], folder: Path, threads: int | None, rounds: int) -> tuple[list[Section], int]:
    """A table for each task, and the number of threads of each side.

    Args:
        chosen: of SIDES, beside which ours and eager diffusers are always measured.
        folder: of the weights.
        threads: of each side; None is torch's choice.
        rounds: of each task.
    """
    import psutil

    sections: list[Section] = []
    others: list[float] = []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for side in SIDES:
            if side in ("ours", BASE, *chosen):
                workers[side] = stack.enter_context(Worker(side, folder, threads, SIDES))
        for title, task, batch in TASKS:
            failed = {side for side, worker in workers.items() if not _warmed(worker, task, batch)}
            sides = [side for side in workers if side not in failed]
            found: dict[str, list[Result]] = {side: [] for side in sides}
            for number in range(rounds):
                others.append(psutil.cpu_percent(interval=1.0))
                for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                    found[side].append(workers[side].run(task, batch))
            sections.append(Section(title, _table(found, list(workers))))
            sys.stderr.write(f"{title}: done\n")
    versions = ", ".join(f"{name} {installed(name)}" for name in LIBRARIES)
    load = f"Other programs took {spread(others, '.0f')} % of the machine before each round; {versions}."
    if statistics.median(others) > BUSY:
        load = f"**The machine was busy, and these figures say little.** {load}"
    return [Section("Beside other engines", [load, ""]), *sections], workers["ours"].threads


def _warmed(worker: Worker, task: str, batch: int) -> bool:
    """Two calls that are not counted: the first compiles. False where the side cannot; it has printed why."""
    if not worker.process.is_alive():
        return False
    try:
        worker.run(task, batch)
        worker.run(task, batch)
    except SystemExit as error:
        sys.stderr.write(f"{error} It is left out from here on.\n")
        return False
    return True


def _table(found: dict[str, list[Result]], sides: list[str]) -> list[str]:
    lines = [f"| | rounds | seconds | {BASE} / this | outputs, to ours |", "|---|---:|---|---|---|"]
    exact = found["ours"][0].output
    for side in sides:
        if side not in found:
            lines.append(f"| {side} | 0 | not installed, or failed | | |")
            continue
        results = found[side]
        output = results[0].output
        same = "" if side == "ours" or exact is None or output is None else difference(output, exact)
        seconds = spread([result.seconds for result in results], ".3f")
        lines.append(
            f"| {side} | {len(results)} | {seconds} | {spread(_ratios(found[BASE], results), '.2f')} | {same} |"
        )
    return lines


def _ratios(base: Sequence[Result], results: Sequence[Result]) -> list[float]:
    return [theirs.seconds / mine.seconds for theirs, mine in zip(base, results, strict=True)]
