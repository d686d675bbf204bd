"""The checks of a run that runs nothing. Imports the plan, the local inputs and the workflow side."""

from collections.abc import Iterator

from ldm_backend.errors import printable

from ..errors import NodeError, PromptRejectedError
from ..workflows.validation import input_problems
from .local_inputs import file_inputs
from .plan import Plan


def check_all(plan: Plan) -> Iterator[str]:
    """Check every job, and say what would be done; what several share is told once.

    Raises:
        PromptRejectedError: Something is wrong.
    """
    for value, file in plan.inputs.files.items():
        yield (f"would be uploaded where the server lacks it: {printable(value)} ({file.bytes:,} bytes) as {file.name}")
    missing = {_place(problem) for problem in plan.inputs.missing}
    found = (input_problems(plan.prompt(index), plan.object_info) for index in range(len(plan.jobs)))
    problems = dict.fromkeys(plan.inputs.missing)
    files = {(node_id, name) for node_id, name, _ in file_inputs(plan.base, plan.object_info)}
    # The host lists its files; what is uploaded, and what lies in its folders, is on no list.
    problems |= dict.fromkeys(
        problem
        for problems in found
        for problem in problems
        if _place(problem) not in missing and not (problem.type == "value_not_in_list" and _place(problem) in files)
    )
    if problems:
        raise PromptRejectedError(tuple(problems))
    yield (f"{len(plan.jobs)} job(s) of {plan.source} are in order; nothing was run")


def _place(problem: NodeError) -> tuple[str, str]:
    """The node and the input that it is about."""
    return problem.node_id, problem.details.partition(":")[0]
