"""Stage 3: a real ComfyUI on the device: the prompts of every node type, under each way to keep weights.

They are those of tests/support/hosts/prompts that end with pictures: the core graph, editing, tiles, the host's own
samplers and so on, on the demo model. What the same prompts give on a ComfyUI with --cpu is what the pictures must be:
at most one level apart, in at most 0.1 % of the values.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np
from PIL import Image
from stage import ROOT, Report, end, start

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

sys.path.append(str(ROOT / "tests" / "support" / "hosts"))
from prompts import cycle  # noqa: E402 - found only now
from prompts.parts import Case  # noqa: E402

MODES = ((), ("--gpu-only",), ("--lowvram",), ("--novram",))
LEVELS, SHARE = 1, 1e-3
DRY_CASES = {"core graph", "tiled decode", "image to image"}

Pictures = dict[str, list[np.ndarray]]


def main() -> None:
    """The host on the CPU first, then each mode on the device."""
    device, report = start("host")
    report.text(
        "Pictures of the demo model beside those of the same prompts on a ComfyUI with --cpu. The dry form has one "
        "mode, since ComfyUI takes --cpu and the others not together; it holds a second CPU host against the first."
    )
    cases = [case for case in cycle(0) if case.end == "done" and case.images]
    cases = [case for case in cases if device.type == "cuda" or case.name in DRY_CASES]
    expected = run_host(report, "CPU", cases, (), cpu=True)
    for flags in MODES if device.type == "cuda" else MODES[:1]:
        mode = " ".join(flags) or "default"

        def compare(mode: str = mode, flags: tuple[str, ...] = flags) -> None:
            found = run_host(report, mode, cases, flags, cpu=device.type == "cpu")
            for name, pictures in found.items():
                judge(report, mode, name, pictures, expected.get(name, []))

        report.tried(mode, compare)
    end(report)


def run_host(report: Report, mode: str, cases: list[Case], flags: tuple[str, ...], cpu: bool) -> Pictures:
    """The pictures of each prompt, from a ComfyUI of its own.

    Raises:
        RuntimeError: It does not run where it should.
    """
    begin = time.perf_counter()
    threads = 1 if cpu else None  # the pictures of other numbers may round otherwise; and it is enough for the demo
    found: Pictures = {}
    with PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}, arguments=flags, cpu=cpu, threads=threads) as host:
        with ComfyClient(host.url) as client:
            kinds = {device["type"] for device in client.system_stats()["devices"]}
            ready = time.perf_counter() - begin
            report.row("Hosts", mode=mode, devices=", ".join(sorted(kinds)), **{"start, s": ready})
            if kinds != {"cpu" if cpu else "cuda"}:
                raise RuntimeError(f"ComfyUI runs on {kinds}")
            for case in cases:
                report.tried(f"{mode}: {case.name}", lambda c=case: found.update({c.name: pictures_of(client, c)}))
        sys.stdout.write(host.log())
    return found


def pictures_of(client: ComfyClient, case: Case) -> list[np.ndarray]:
    """Run a prompt to its end."""
    prompt_id = client.submit(case.prompt)
    client.follow(prompt_id)
    files = [file for file in client.outputs(prompt_id) if file.type == "output"]
    return [np.asarray(Image.open(io.BytesIO(client.fetch(file))).convert("RGB")) for file in files]


def judge(report: Report, mode: str, name: str, found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """A line for each prompt; one that differs more than it may lets the stage fail."""
    if not expected or [one.shape for one in found] != [one.shape for one in expected]:
        report.failed(f"{mode}: {name}", f"{len(found)} pictures; the CPU gave {len(expected)}")
        return
    differences = np.concatenate(
        [np.abs(one.astype(int) - other.astype(int)).ravel() for one, other in zip(found, expected, strict=True)]
    )
    most, share = int(differences.max()), float((differences > 0).mean())
    ok = most <= LEVELS and share <= SHARE
    cells = {"levels apart": most, "values that differ": f"{share:.4%}", "as it must be": "yes" if ok else "NO"}
    report.row("Pictures", mode=mode, prompt=name, pictures=len(found), **cells)
    if not ok:
        report.failed(f"{mode}: {name}", f"up to {most} levels apart, {share:.3%} of the values differ")


if __name__ == "__main__":
    main()
