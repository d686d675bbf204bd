"""Names of output files from a template. Imports the plan, history, file_kinds and the errors.

A template such as `{seed}/{index:04}` gives a path below the output folder, without the file's extension. Whatever a
template, a value or a server says, the path stays below that folder.
"""

import re
import string
from collections.abc import Sequence
from pathlib import PurePosixPath

from ldm_backend.errors import first_names

from ..client.file_kinds import extension
from ..client.history import FileRef
from ..errors import OutputError
from .plan import Plan

FIELDS = ("index", "seed", "image", "title", "node", "file", "prefix")
_SPEC = re.compile(r"0?\d{0,2}")
_MAX_VALUE, _MAX_PART = 80, 200  # characters of a value, bytes of one part of a path
_COUNTER = re.compile(r"_\d+_$")  # what ComfyUI appends to a prefix
_DEFAULT_ONE, _DEFAULT_MANY = "{file}", "{prefix}_{index:05}"


class NameTemplate:
    """A checked template.

    Args:
        text: With fields in braces: `index` of the job, `seed`, `image` (its number within the job), `title` and `node`
            (id) of the node that saved it, `file` (the host's name), `prefix` (the same without the host's counter),
            and INPUT or NODE.INPUT of everything that a job sets. Default: `{file}`, or `{prefix}_{index:05}` for
            several jobs.
        plan: The jobs to be named.

    Raises:
        OutputError: An unknown field, a path that could leave the folder, or two jobs would share a name.
    """

    def __init__(self, text: str | None, plan: Plan) -> None:
        self.text = text or (_DEFAULT_ONE if len(plan.jobs) == 1 else _DEFAULT_MANY)
        self._plan = plan
        own = {name for job in plan.jobs for name in (*job.name_values, *job.assignments)}
        self._parts = _parse(self.text, {*FIELDS, *own})
        self._check_distinct()

    def name(self, index: int, image: int, ref: FileRef) -> str:
        """The path of an image below the output folder, with `/` between its parts.

        Args:
            index: Of the job.
            image: Number of the image within the job.
            ref: Where the host keeps it. An extension that is not on the list of `file_kinds` is left out.

        Raises:
            OutputError: The path would leave the folder, or a part is too long.
        """
        # Names come from a server: only the last part counts, whatever the separator.
        file = PurePosixPath(ref.filename.replace("\\", "/"))
        node = self._plan.base.get(ref.node_id, {})
        stem = _clean(file.stem)
        job = self._plan.jobs[index]
        values: dict[str, str | int] = {**job.name_values, **job.assignments}
        values |= {"index": index, "image": image, "node": ref.node_id, "file": stem}
        values["title"] = str((node.get("_meta") or {}).get("title") or node.get("class_type", ref.node_id))
        values["prefix"] = _COUNTER.sub("", stem)
        seed = self._plan.seed(index) if any(field == "seed" for _, field, _ in self._parts) else None
        values["seed"] = "none" if seed is None else seed
        return self._render(values) + extension(file.name)

    def _render(self, values: dict[str, str | int]) -> str:
        rendered = ""
        for literal, field, spec in self._parts:
            rendered += literal
            if field:
                value = values.get(field, "")
                value = int(value) if spec and isinstance(value, str) and value.isdecimal() else value
                rendered += format(value, spec) if isinstance(value, int) else _clean(value)
        return _check_path(rendered, self.text)

    def _check_distinct(self) -> None:
        """Names that jobs share would depend on the order in which the jobs end."""
        if len(self._plan.jobs) == 1 or any(field == "index" for _, field, _ in self._parts):
            return
        owners: dict[str, int] = {}
        for index in range(len(self._plan.jobs)):
            name = self.name(index, 0, FileRef("file", "", "output", ""))
            if owners.setdefault(name, index) != index:
                raise OutputError(
                    f"--name {self.text!r} gives jobs {owners[name]} and {index} the same name; add {{index}}"
                )


def _parse(text: str, known: set[str]) -> Sequence[tuple[str, str, str]]:
    """Literal text, field and format specification of each part."""
    parts: list[tuple[str, str, str]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise OutputError(f"cannot read --name {text!r}: {error}; write plain braces twice") from error
    for literal, field, spec, conversion in parsed:
        if field is not None and (field not in known or conversion or not _SPEC.fullmatch(spec or "")):
            raise OutputError(
                f"--name {text!r} has {{{field}}}, which is no field; there are {first_names(sorted(known), 50)}. "
                "Numbers take a width: {index:04}"
            )
        parts.append((literal, field or "", spec or ""))
    _check_path("".join(literal + ("x" if field else "") for literal, field, _ in parts), text)
    return parts


def _check_path(path: str, template: str) -> str:
    parts = path.split("/")
    bad = [part for part in parts if not part.strip(". ") or re.search(r"[\\\0-\x1f:]", part)]
    if bad or any(len(part.encode()) > _MAX_PART for part in parts):
        raise OutputError(
            f"--name {template!r} gives {path[:300]!r}; expected a path below the output folder: no empty part, no `.` "
            f"or `..`, no backslash or colon, and at most {_MAX_PART} bytes between slashes"
        )
    # A hidden file would be missed by people, and could take the place of the journal.
    return "/".join(f"_{part}" if part.startswith(".") else part for part in parts)


def _clean(value: str | int) -> str:
    return re.sub(r"[^\w.+=, -]", "_", str(value))[:_MAX_VALUE] or "_"
