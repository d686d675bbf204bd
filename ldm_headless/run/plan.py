"""What a run has to do: the prompt of each job, made when it is needed. Imports the workflow side."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import WorkflowError
from ..ui_format.export import export_prompt
from ..workflows.overrides import find_inputs, seed_inputs, set_inputs, set_seed
from ..workflows.workflow import Prompt
from .local_inputs import LocalFile, LocalInputs
from .sweep import Job


@dataclass(frozen=True)
class Plan:
    """A workflow and its jobs.

    Attributes:
        source: Where the workflow comes from, for messages.
        base: The workflow's prompt before any job changes it.
        jobs: What each job changes.
        ui: A graph in UI format, for the images of jobs whose prompt it shows.
        object_info: The host's description of its nodes.
        inputs: Files of this machine that the prompts name.
    """

    source: str
    base: Prompt
    jobs: Sequence[Job]
    ui: Mapping[str, Any] | None
    object_info: Mapping[str, Any]
    inputs: LocalInputs = field(default_factory=LocalInputs)

    def prompt(self, index: int) -> Prompt:
        """The prompt of a job.

        Raises:
            WorkflowError: It sets what the workflow does not have, or a seed in two ways.
        """
        job = self.jobs[index]
        prompt = set_inputs(self.base, job.assignments, self.object_info) if job.assignments else self.base
        prompt = self.inputs.replaced(prompt, self.object_info) if self.inputs.files else prompt
        if job.seed is None:
            return prompt
        seeds = set(seed_inputs(prompt, self.object_info)) if job.assignments else set()
        for target in job.assignments:
            if self._places[target] in seeds:
                raise WorkflowError(f"{target!r} is a seed, and job {index} has the seed {job.seed} already; keep one")
        return set_seed(prompt, job.seed, self.object_info)

    def uploads(self, index: int) -> list[LocalFile]:
        """The files that a job needs on its server."""
        return self.inputs.of(self.prompt(index), self.object_info) if self.inputs.files else []

    def extra_data(self, index: int) -> dict[str, Any]:
        """What is submitted beside the prompt of a job: the UI graph, if it shows this prompt and not another one.

        Without it, ComfyUI rebuilds a graph from the prompt in the image.
        """
        shown = self._shown is not None and self._shown == _without_titles(self.prompt(index))
        return {"extra_pnginfo": {"workflow": self.ui}} if shown else {}

    def seed(self, index: int) -> int | None:
        """The seed of a job: its own, or the first one in its prompt."""
        if self.jobs[index].seed is not None:
            return self.jobs[index].seed
        prompt = self.prompt(index)
        return next((prompt[node_id]["inputs"][name] for node_id, name in seed_inputs(prompt, self.object_info)), None)

    @cached_property
    def fingerprint(self) -> str:
        """Differs where any prompt or the order of the jobs differs."""
        digest = hashlib.sha256()
        # The text of each prompt, of which most nodes are those of the workflow.
        base = {key: f"{json.dumps(key)}: {json.dumps(node, sort_keys=True)}" for key, node in self.base.items()}
        order = sorted(base)
        for index in range(len(self.jobs)):
            prompt = self.prompt(index)
            texts = base | {
                key: f"{json.dumps(key)}: {json.dumps(node, sort_keys=True)}"
                for key, node in prompt.items()
                if node is not self.base[key]
            }
            digest.update(f"{{{', '.join([texts[key] for key in order])}}}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _places(self) -> dict[str, tuple[str, str]]:
        """Node and input of everything that jobs set: thousands of them set the same."""
        return find_inputs(self.base, dict.fromkeys(target for job in self.jobs for target in job.assignments))

    @cached_property
    def _shown(self) -> Prompt | None:
        """The prompt that the UI graph shows; None when it cannot be told."""
        try:
            return _without_titles(export_prompt(self.ui, self.object_info, self.source)) if self.ui else None
        except WorkflowError:
            return None


def _without_titles(prompt: Prompt) -> Prompt:
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}
