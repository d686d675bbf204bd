"""What `ldm run` does: a workflow, many jobs, one server, several, or a Ray cluster. Imports all that a run needs."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..client.access import Access, parse_address
from ..client.async_client import AsyncComfyClient
from ..errors import HeadlessError, HostError, PromptRejectedError, WorkflowError
from ..host.install import find_host, own_pack
from ..host.private_host import PrivateHost
from ..host.stopping import run_async
from ..host.torch_probe import default_threads
from ..pools.ray_pool import ray_cluster
from ..run.dry_run import check_all
from ..run.journal import Header
from ..run.local_inputs import find_local_inputs
from ..run.output_folder import OutputFolder
from ..run.output_names import NameTemplate
from ..run.plan import Plan
from ..run.private_host_worker import host_versions
from ..run.progress import RunProgress
from ..run.ray_runner import host_needs, run_on_ray
from ..run.run_record import RunRecord
from ..run.server_runner import Hooks, Runner
from ..run.sweep import Job
from ..terminal import console, note
from ..workflows.subgraph_targets import resolve_targets
from ..workflows.validation import structural_problems
from ..workflows.workflow import Prompt, Workflow, load_workflow, to_prompt, ui_twin
from .run_output import conclude, print_rescued, reporting

_SHORTEST_WAIT = 10.0  # seconds of a request, also where a server may not be away at all


@dataclass(frozen=True)
class Options:
    """Of the command, see `run`."""

    out: Path
    name: str | None
    report: Path | None
    dry_run: bool
    fresh: bool
    wait: float
    threads: int | None
    max_file: int
    access: Access


def load(path: Path) -> Workflow:
    """The workflow, with the graph of its twin if it has none itself."""
    source, twin = load_workflow(path), ui_twin(path)
    if source.note:
        note(source.note)
    return replace(source, ui=load_workflow(twin).ui) if twin and source.ui is None else source


@contextmanager
def _hosts(servers: list[str], threads: int | None) -> Iterator[tuple[list[str], PrivateHost | None]]:
    """The addresses to use; a private host with this checkout as its only pack unless servers are given."""
    if servers:
        yield list({parse_address(url).url: url for url in servers}.values()), None
        return
    with ExitStack() as stack:
        with console.status("starting a private ComfyUI"):
            host = stack.enter_context(PrivateHost(find_host(), own_pack(), threads=threads))
        yield [host.url], host


def run_jobs(source: Workflow, jobs: Sequence[Job], options: Options, servers: list[str]) -> None:
    """Run the jobs on these servers, or on a private host."""
    with _hosts(servers, options.threads) as (urls, private):
        run_async(_run(source, jobs, urls, options, private))


async def _run(
    source: Workflow, jobs: Sequence[Job], urls: list[str], options: Options, private: PrivateHost | None
) -> None:
    async with AsyncExitStack() as stack:
        timeout = max(options.wait, _SHORTEST_WAIT)
        opened = [AsyncComfyClient(url, timeout, options.access) for url in urls]
        clients = [await stack.enter_async_context(client) for client in opened]
        offers = {client: asyncio.ensure_future(_offer(client, source)) for client in clients}
        stack.push_async_callback(_dismiss, offers.values())
        client, prompt, info = await _first(list(offers.values()))
        jobs = _with_subgraphs(jobs, source, prompt, info)
        inputs = await find_local_inputs(client, source.source, prompt, jobs, info)
        plan = Plan(source.source, prompt, jobs, source.ui, info, inputs)
        if options.dry_run:
            NameTemplate(options.name, plan)
            for line in check_all(plan):
                note(line)
            return
        with _recording(plan, options) as (record, progress):
            patience = 0.0 if private else options.wait  # nobody else starts a private host again
            hooks = Hooks(offers.__getitem__, _Revival(private), progress.on_event)
            runner = Runner(record, clients, patience, hooks, options.max_file)
            addresses = [client.base_url for client in clients]
            with reporting(record, options.report, lambda: {url: runner.dead_servers.get(url) for url in addresses}):
                await runner.run()
                if private:
                    print_rescued(record, private, options.out)
    conclude(record, runner.dead_servers, private)


def run_on_cluster(source: Workflow, jobs: Sequence[Job], options: Options, address: str, workers: int | None) -> None:
    """Plan on a private host here, with the checks of any other run; then start those of the workers."""
    threads = options.threads or default_threads(find_host().python)
    lost: dict[str, HeadlessError] = {}
    with ray_cluster(address) as resources:
        with _hosts([], threads) as ((url,), _):
            plan, versions = run_async(_plan(url, source, jobs))
        needs = host_needs(threads, resources)
        workers = workers or needs.places(resources)
        with (
            _recording(plan, options) as (record, _),
            reporting(record, options.report, lambda: _workers(record) | lost),
        ):
            note(f"{workers} host(s) of {threads} CPU thread(s); the cluster has room for {needs.places(resources)}")
            try:
                run_on_ray(record, workers, needs, threads, versions)
            except HeadlessError as error:
                lost[address] = error
    conclude(record, lost, None)


def _workers(record: RunRecord) -> dict[str, HeadlessError | None]:
    """The workers that ended a job."""
    return {result.server: None for result in record.results if result.server}


async def _plan(url: str, source: Workflow, jobs: Sequence[Job]) -> tuple[Plan, dict[str, str]]:
    """The plan by what one host says, and the versions of that host."""
    async with AsyncComfyClient(url) as client:
        _, prompt, info = await _offer(client, source)
        jobs = _with_subgraphs(jobs, source, prompt, info)
        inputs = await find_local_inputs(client, source.source, prompt, jobs, info)
        return Plan(source.source, prompt, jobs, source.ui, info, inputs), host_versions(await client.system_stats())


def _with_subgraphs(jobs: Sequence[Job], source: Workflow, prompt: Prompt, info: Mapping[str, Any]) -> Sequence[Job]:
    """The jobs with what they set on subgraphs' nodes set on the nodes inside."""
    targets = dict.fromkeys(target for job in jobs for target in job.assignments)
    inside = resolve_targets(targets, source, prompt, info)
    if not inside:
        return jobs
    owners: dict[str, str] = {}
    for target in targets:
        for place in inside.get(target, ()):
            if owners.setdefault(place, target) != target:
                raise WorkflowError(f"{owners[place]!r} and {target!r} are the same input; set it once")
    return [
        replace(
            job,
            name_values={**job.name_values, **{key: value for key, value in job.assignments.items() if key in inside}},
            assignments={place: value for key, value in job.assignments.items() for place in inside.get(key, (key,))},
        )
        for job in jobs
    ]


@contextmanager
def _recording(plan: Plan, options: Options) -> Iterator[tuple[RunRecord, RunProgress]]:
    """The output folder of the run, and what is shown of it."""
    names = NameTemplate(options.name, plan)
    header = Header(plan.source, len(plan.jobs), names.text, plan.fingerprint)
    with OutputFolder(options.out, header, options.fresh) as folder, RunProgress(console, plan) as progress:
        yield RunRecord(plan, folder, names, progress.on_result), progress


_Offer = tuple[AsyncComfyClient, Prompt, dict[str, Any]]


async def _offer(client: AsyncComfyClient, source: Workflow) -> _Offer:
    """A server, the workflow's prompt for it, and its nodes; raises why it cannot run the workflow."""
    await client.system_stats()
    info = await client.object_info()
    prompt = to_prompt(source, info)
    if problems := structural_problems(prompt, info):
        raise PromptRejectedError(tuple(problems))
    return client, prompt, info


async def _first(offers: list[asyncio.Future[_Offer]]) -> _Offer:
    """What the first usable server says. The others may take their time."""
    errors: list[HeadlessError] = []
    for offer in asyncio.as_completed(offers):
        try:
            return await offer
        except HeadlessError as error:
            errors.append(error)
    for other in errors[1:]:
        note(str(other))
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
        note(f"the private host went away; starting it again. The end of its log:\n{private.log_tail()}")
        try:
            return await asyncio.to_thread(private.revive)
        except HostError as error:
            note(str(error))
            return False
        except asyncio.CancelledError:
            private.stop()  # which ends the start in that thread
            raise
