"""`ldm run`: its options. What a run needs is imported when one begins, so that no other command waits for it."""

from pathlib import Path
from typing import Annotated

import typer

from ..client.received import MAX_FILE
from ..errors import WorkflowError


def run(
    workflow: Annotated[
        Path, typer.Argument(help="Workflow in UI or API format, or a picture or video that carries one.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the images and other files.")] = Path("output"),
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NODE.INPUT=VALUE",
            help='Node id or title, that of a subgraph too; "a = b".x=1 for a title with an equal sign. Repeatable.',
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of every node that has one.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0-99", help="A job for each seed: ranges, commas.")] = None,
    sweeps: Annotated[
        list[str] | None, typer.Option("--sweep", metavar="NODE.INPUT=A|B", help="A job for each value; repeatable.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="CSV or JSON lines: a job for each row.")] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Of the images: {index:04}, {seed}, {NODE.INPUT}, {title}, ..."),
    ] = None,
    servers: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="URL", help="A running ComfyUI; repeatable. Default: a private one."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that a server may be away.")] = 30.0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Private ComfyUIs on a Ray cluster; `local` starts one here."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --ray. Default: as many as fit.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each private ComfyUI. Default: what torch chooses here.")
    ] = None,
    header_file: Annotated[
        Path | None, typer.Option(help="Headers for secured servers: lines of `Name: value`. Or set LDM_SERVER_TOKEN.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) to trust in the place of the system's: a self-signed one.")
    ] = None,
    max_file: Annotated[
        float, typer.Option(min=0, metavar="GB", help="Largest file that is taken from a server.")
    ] = MAX_FILE / 1e9,
    report: Annotated[Path | None, typer.Option(help="Write what became of each job as JSON.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check everything against the server.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run in this folder made.")] = False,
) -> None:
    """Run a workflow and print the path of each file that it leaves. The same command again runs what is missing."""
    from ..client.access import Access, read_access
    from ..run.report import check_report_path
    from ..run.sweep import expand
    from .run_jobs import Options, load, run_jobs, run_on_cluster

    if seed is not None and seeds is not None:
        raise WorkflowError("--seed and --seeds exclude each other; --seeds takes single numbers too")
    _check_use(ray, workers, threads, servers)
    seeds = seeds if seed is None else str(seed)
    if report is not None:
        check_report_path(report)
    # What is wrong with the command and its files is told before a host is started.
    source, jobs = load(workflow), expand(sweeps or [], seeds, table, sets or [])
    access = read_access(header_file, ca_file) if servers else Access()
    options = Options(out, name, report, dry_run, fresh, wait, threads, _bytes(max_file), access)
    if ray is not None and not dry_run:
        run_on_cluster(source, jobs, options, ray, workers)
    else:
        run_jobs(source, jobs, options, servers or [])


def _bytes(gigabytes: float) -> int:
    if not gigabytes < 1e9:  # NaN is not
        raise WorkflowError(f"--max-file {gigabytes:g} is no number of GB; expected one such as 20")
    return int(gigabytes * 1e9)


def _check_use(ray: str | None, workers: int | None, threads: int | None, servers: list[str] | None) -> None:
    if servers and ray is not None:
        raise WorkflowError(
            "--ray and --server exclude each other: the workers of a cluster have a ComfyUI each; leave one out"
        )
    if servers and threads is not None:
        raise WorkflowError(
            "--threads is for private ComfyUIs; a server has the threads that it was started with; leave it out"
        )
    if workers is not None and ray is None:
        raise WorkflowError("--workers is for --ray; take --ray local for several workers on this machine")
