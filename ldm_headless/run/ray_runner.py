"""Runs the jobs of a plan on private hosts that are the workers of a Ray cluster.

Imports ray_pool and private_host_worker.
"""

from collections.abc import Mapping
from functools import partial

from ..errors import HeadlessError
from ..pools.ray_pool import Needs, RayPool
from .private_host_worker import HostAnswer, HostJob, HostWorker
from .run_record import RunRecord

_IN_FLIGHT = 2  # a host need not wait for us between two jobs


def host_needs(threads: int, resources: Mapping[str, float]) -> Needs:
    """What one host takes of a cluster with these resources: a GPU where there is one, otherwise its CPU threads."""
    return Needs(cpus=1, gpus=1) if resources.get("GPU", 0) >= 1 else Needs(cpus=threads)


def run_on_ray(record: RunRecord, workers: int, needs: Needs, threads: int, expected: Mapping[str, str]) -> None:
    """Run every job that is left, inside `ray_cluster`; each ends in the record.

    Args:
        record: What to do, and what became of it.
        workers: How many hosts to ask for.
        needs: Of one.
        threads: Of one, on the CPU.
        expected: The `host_versions` that each has to have.

    Raises:
        HeadlessError: No host starts, or one after the other is lost.
    """
    results, plan = record.results, record.plan

    def count_loss(job: HostJob) -> None:
        results[job.index].attempts += 1

    pool: RayPool[HostJob, HostAnswer] = RayPool(
        partial(HostWorker, threads, expected), min(workers, len(record.left)), needs, _IN_FLIGHT, on_loss=count_loss
    )
    # Prompts are made when they are needed: there may be a hundred thousand.
    jobs = (
        HostJob(
            index,
            plan.prompt(index),
            plan.extra_data(index),
            tuple((file.name, file.path.read_bytes()) for file in plan.uploads(index)),
        )
        for index in record.left
    )
    for answer in pool.map(jobs) if record.left else ():
        result = results[answer.index]
        result.server, result.prompt_id, result.seconds = answer.worker, answer.prompt_id, answer.seconds
        result.attempts += 1
        try:
            if answer.error is not None:
                raise answer.error
            record.save(answer.index, answer.found, answer.files)
        except HeadlessError as error:
            record.fail(answer.index, error)
