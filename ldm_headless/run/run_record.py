"""What becomes of the jobs of a run, whoever runs them. Imports the plan, the output side and the report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..client.history import FileRef, Outputs
from ..errors import HeadlessError
from .journal import Journal
from .output_folder import OutputFolder
from .output_names import NameTemplate
from .plan import Plan
from .report import JobResult, JobState


class RunRecord:
    """The jobs of one run: which are left, how the others ended, and saving what they leave.

    Attributes:
        plan: What to do.
        results: Of all jobs, at any time.
        left: The jobs that an earlier run did not complete.
        unfinished: How many of these have not ended.

    Args:
        plan: What to do.
        folder: Where the images go; tells which jobs are done.
        names: Of the images.
        on_result: Told of each job that ended, at first of those that an earlier run completed.
    """

    def __init__(
        self, plan: Plan, folder: OutputFolder, names: NameTemplate, on_result: Callable[[JobResult], None]
    ) -> None:
        self.plan = plan
        self.results = [JobResult(index) for index in range(len(plan.jobs))]
        self._folder, self._names, self._on_result = folder, names, on_result
        for result in self.results:
            files = folder.complete(result.index)
            if files is not None:
                result.state, result.files = JobState.KEPT, files
                result.texts = folder.journal.texts.get(result.index, [])
                on_result(result)
        self.left = [result.index for result in self.results if result.state is JobState.LEFT]
        self.unfinished = len(self.left)

    @property
    def journal(self) -> Journal:
        """Of the output folder."""
        return self._folder.journal

    def scratch_file(self) -> Path:
        """A path for a file of a job that is on its way; see `OutputFolder.scratch_file`."""
        return self._folder.scratch_file()

    def save(self, index: int, found: Outputs, files: Sequence[tuple[FileRef, bytes | Path]]) -> None:
        """Save what a job has left, which ends it.

        Args:
            index: Of the job.
            found: Its result.
            files: The files of it, with their content or the scratch file that holds it.

        Raises:
            OutputError: They cannot be saved.
        """
        named = [(self._names.name(index, number, ref), content) for number, (ref, content) in enumerate(files)]
        texts = [(text.node_id, text.text) for text in found.texts]
        result = self.results[index]
        result.files = self._folder.save(index, named, texts)
        result.texts, result.left = texts, list(found.left)
        result.refs = [(ref.subfolder, ref.filename) for ref, _ in files]
        self._end(index, JobState.DONE)

    def fail(self, index: int, error: HeadlessError) -> None:
        """End a job that left nothing."""
        self.results[index].error = error
        self._end(index, JobState.FAILED)

    def _end(self, index: int, state: JobState) -> None:
        self.results[index].state = state
        self.unfinished -= 1
        self._on_result(self.results[index])
