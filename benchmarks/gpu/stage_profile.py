"""Stage 6: where the time of one evaluation of the UNet goes, kernel by kernel."""

from __future__ import annotations

from pathlib import Path

import torch
from stage import TIMESTEP, Report, end, latents, model_folder, start
from torch.profiler import ProfilerActivity, profile

import ldm_backend

ROWS = 25


def main() -> None:
    """Each format, eager and compiled."""
    device, report = start("profile")
    dry = device.type == "cpu"
    report.text("One evaluation after three that warm up; a kernel's share is of the time of all kernels.")
    cases = (
        [("fp32", False, 1)] if dry else [("fp32", False, 1), ("auto", False, 1), ("auto", True, 1), ("auto", True, 16)]
    )
    with model_folder(device) as folder:
        for precision, compiled, batch in cases:
            name = f"{precision}{', compiled' if compiled else ''}, batch {batch}"
            report.tried(name, lambda p=precision, c=compiled, n=batch, s=name: one(folder, device, report, p, c, n, s))
    end(report)


@torch.inference_mode()
def one(
    folder: Path, device: torch.device, report: Report, precision: str, compiled: bool, batch: int, name: str
) -> None:
    """Profile an evaluation."""
    model = ldm_backend.load(folder, device=device, precision=precision, compiled=compiled)
    x = latents(batch, model.config.unet, device)
    for _ in range(3):
        model.unet(x, TIMESTEP)
    on_card = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]) as found:
        model.unet(x, TIMESTEP)
        if on_card:
            torch.cuda.synchronize()
    # On the card only what ran there: the operators of the CPU count the same time once more.
    events = [e for e in found.key_averages() if not on_card or "CUDA" in str(e.device_type)]
    time_of = (lambda e: e.self_device_time_total) if on_card else (lambda e: e.self_cpu_time_total)
    total = sum(time_of(e) for e in events) or 1.0
    report.row("Evaluations", case=name, kernels=sum(e.count for e in events), **{"ms in them": total / 1e3})
    for e in sorted(events, key=time_of, reverse=True)[:ROWS]:
        share = f"{100 * time_of(e) / total:.1f} %"
        report.row(f"Kernels: {name}", kernel=e.key[:90], calls=e.count, ms=time_of(e) / 1e3, share=share)


if __name__ == "__main__":
    main()
