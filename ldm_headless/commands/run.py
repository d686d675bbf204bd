"""`ldm run`: a workflow, many jobs, one server, several, or a Ray cluster. Imports everything that a run needs."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..client.async_client import AsyncComfyClient
from ..errors import HeadlessError, HostError, PromptRejectedError, WorkflowError
from ..host.install import find_host, own_pack
from ..host.private_host import PrivateHost
from ..host.torch_probe import default_threads
from ..pools.ray_pool import ray_cluster
from ..run.journal import Header
from ..run.output_folder import OutputFolder
from ..run.output_names import NameTemplate
from ..run.plan import Plan
from ..run.private_host_worker import host_versions
from ..run.progress import RunProgress
from ..run.ray_runner import host_needs, run_on_ray
from ..run.report import JobState, check_report_path, failure, write_report
from ..run.run_record import RunRecord
from ..run.server_runner import Hooks, Runner
from ..run.sweep import Job, expand
from ..workflows.validation import input_problems, structural_problems
from ..workflows.workflow import Prompt, Workflow, load_workflow, to_prompt, ui_twin

_console = Console(stderr=True)


@dataclass(frozen=True)
class _Options:
    out: Path
    name: str | None
    report: Path | None
    dry_run: bool
    fresh: bool
    wait: float
    threads: int | None


def run(
    workflow: Annotated[Path, typer.Argument(help="Workflow in UI or API format, or a picture that carries one.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("output"),
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Node id or title; repeatable.")
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
    report: Annotated[Path | None, typer.Option(help="Write what became of each job as JSON.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check everything against the server.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run in this folder made.")] = False,
) -> None:
    """Run a workflow and print the path of each image. The same command again runs only what has no images yet."""
    if seed is not None and seeds is not None:
        raise WorkflowError("--seed and --seeds exclude each other; --seeds takes single numbers too")
    _check_use(ray, workers, threads, servers)
    seeds = seeds if seed is None else str(seed)
    if report is not None:
        check_report_path(report)
    # What is wrong with the command and its files is told before a host is started.
    source, jobs = _load(workflow), expand(sweeps or [], seeds, table, sets or [])
    options = _Options(out, name, report, dry_run, fresh, wait, threads)
    if ray is not None and not dry_run:
        _run_on_ray(source, jobs, options, ray, workers)
        return
    with _hosts(servers or [], threads) as (urls, private):
        asyncio.run(_run(source, jobs, urls, options, private))


def _check_use(ray: str | None, workers: int | None, threads: int | None, servers: list[str] | None) -> None:
    if servers and ray is not None:
        raise WorkflowError("--ray and --server exclude each other: the workers of a cluster have a ComfyUI each")
    if servers and threads is not None:
        raise WorkflowError("--threads is for private ComfyUIs; a server has the threads that it was started with")
    if workers is not None and ray is None:
        raise WorkflowError("--workers is for --ray; take --ray local for several workers on this machine")


def _load(path: Path) -> Workflow:
    """The workflow, with the graph of its twin if it has none itself."""
    source, twin = load_workflow(path), ui_twin(path)
    return replace(source, ui=load_workflow(twin).ui) if twin and source.ui is None else source


@contextmanager
def _hosts(servers: list[str], threads: int | None) -> Iterator[tuple[list[str], PrivateHost | None]]:
    """The addresses to use; a private host with this checkout as its only pack unless servers are given."""
    if servers:
        yield list(dict.fromkeys(url.rstrip("/") for url in servers)), None
        return
    with ExitStack() as stack:
        with _console.status("starting a private ComfyUI"):
            host = stack.enter_context(PrivateHost(find_host(), own_pack(), threads=threads))
        yield [host.url], host


async def _run(
    source: Workflow, jobs: Sequence[Job], urls: list[str], options: _Options, private: PrivateHost | None
) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncComfyClient(url)) for url in urls]
        offers = {client: asyncio.ensure_future(_offer(client, source)) for client in clients}
        stack.push_async_callback(_dismiss, offers.values())
        prompt, info = await _first(list(offers.values()))
        plan = Plan(source.source, prompt, jobs, source.ui, info)
        if options.dry_run:
            NameTemplate(options.name, plan)
            _check_all(plan)
            return
        with _recording(plan, options) as (record, progress):
            patience = 0.0 if private else options.wait  # nobody else starts a private host again
            hooks = Hooks(offers.__getitem__, _Revival(private), progress.on_event)
            runner = Runner(record, clients, patience, hooks)
            with _reporting(record, options, lambda: {url: runner.dead_servers.get(url) for url in urls}):
                await runner.run()
    _conclude(record, runner.dead_servers, private)


def _run_on_ray(source: Workflow, jobs: Sequence[Job], options: _Options, address: str, workers: int | None) -> None:
    """Plan on a private host here, with the checks of any other run; then start those of the workers."""
    threads = options.threads or default_threads(find_host().python)
    lost: dict[str, HeadlessError] = {}
    with ray_cluster(address) as resources:
        with _hosts([], threads) as ((url,), _):
            plan, versions = asyncio.run(_plan(url, source, jobs))
        needs = host_needs(threads, resources)
        workers = workers or needs.places(resources)
        with _recording(plan, options) as (record, _), _reporting(record, options, lambda: _workers(record) | lost):
            _note(f"{workers} host(s) of {threads} CPU thread(s); the cluster has room for {needs.places(resources)}")
            try:
                run_on_ray(record, workers, needs, threads, versions)
            except HeadlessError as error:
                lost[address] = error
    _conclude(record, lost, None)


def _workers(record: RunRecord) -> dict[str, HeadlessError | None]:
    """The workers that ended a job."""
    return {result.server: None for result in record.results if result.server}


async def _plan(url: str, source: Workflow, jobs: Sequence[Job]) -> tuple[Plan, dict[str, str]]:
    """The plan by what one host says, and the versions of that host."""
    async with AsyncComfyClient(url) as client:
        prompt, info = await _offer(client, source)
        return Plan(source.source, prompt, jobs, source.ui, info), host_versions(await client.system_stats())


@contextmanager
def _recording(plan: Plan, options: _Options) -> Iterator[tuple[RunRecord, RunProgress]]:
    """The output folder of the run, and what is shown of it."""
    names = NameTemplate(options.name, plan)
    header = Header(plan.source, len(plan.jobs), names.text, plan.fingerprint)
    with OutputFolder(options.out, header, options.fresh) as folder, RunProgress(_console, plan) as progress:
        yield RunRecord(plan, folder, names, progress.on_result), progress


async def _offer(client: AsyncComfyClient, source: Workflow) -> tuple[Prompt, dict[str, Any]]:
    """The workflow's prompt for a server, and the server's nodes; raises why it cannot run the workflow."""
    await client.system_stats()
    info = await client.object_info()
    prompt = to_prompt(source, info)
    if problems := structural_problems(prompt, info):
        raise PromptRejectedError(tuple(problems))
    return prompt, info


async def _first(offers: list[asyncio.Future[tuple[Prompt, dict[str, Any]]]]) -> tuple[Prompt, dict[str, Any]]:
    """What the first usable server says. The others may take their time."""
    errors: list[HeadlessError] = []
    for offer in asyncio.as_completed(offers):
        try:
            return await offer
        except HeadlessError as error:
            errors.append(error)
    for other in errors[1:]:
        _note(str(other))
    raise errors[0]


async def _dismiss(offers: Collection[asyncio.Future[Any]]) -> None:
    """End the questions to servers that nobody waits for any more."""
    for offer in offers:
        offer.cancel()
    await asyncio.gather(*offers, return_exceptions=True)


class _Revival:
    """Starts the private host again, once: a job that brings it down each time would do so for ever."""

    def __init__(self, private: PrivateHost | None) -> None:
        self._private = private

    async def __call__(self) -> bool:
        private, self._private = self._private, None
        if private is None:
            return False
        _note(f"the private host went away; starting it again. The end of its log:\n{private.log_tail()}")
        try:
            return await asyncio.to_thread(private.revive)
        except HostError as error:
            _note(str(error))
            return False
        except asyncio.CancelledError:
            private.stop()  # which ends the start in that thread
            raise


@contextmanager
def _reporting(
    record: RunRecord, options: _Options, servers: Callable[[], Mapping[str, HeadlessError | None]]
) -> Iterator[None]:
    """Whatever ends the body: say how far it came, and write the report."""
    started = time.monotonic()
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        ended = sum(result.state in (JobState.DONE, JobState.KEPT) for result in record.results)
        _note(f"stopped with {ended} of {len(record.results)} jobs done; the same command goes on from there")
        raise
    finally:
        if options.report is not None:
            write_report(options.report, record.plan, record.results, servers(), time.monotonic() - started)


def _conclude(record: RunRecord, dead_servers: Mapping[str, HeadlessError], private: PrivateHost | None) -> None:
    """Print the paths, and raise what stands for everything that went wrong."""
    for result in record.results:
        for path in result.files:
            typer.echo(path)
    error = failure(record.results, dead_servers)
    if private and dead_servers:
        raise HostError(f"the private host went away: {error}\nThe end of its log:\n{private.log_tail()}")
    if error:
        raise error
    for url, reason in dead_servers.items():
        _note(f"{url} was left out: {reason}")


def _check_all(plan: Plan) -> None:
    """Check every job; what several share is told once."""
    found = (input_problems(plan.prompt(index), plan.object_info) for index in range(len(plan.jobs)))
    problems = dict.fromkeys(problem for problems in found for problem in problems)
    if problems:
        raise PromptRejectedError(tuple(problems))
    _note(f"{len(plan.jobs)} job(s) of {plan.source} are in order; nothing was run")


def _note(text: str) -> None:
    _console.print(f"ldm: {text}", markup=False, highlight=False, soft_wrap=True)
