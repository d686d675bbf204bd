"""Write the addresses of this repository into pyproject.toml: the registry wants URLs where the file has paths.

The publish workflow runs it from the root; GitHub's own variables say which repository and tag these are.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

PICTURES = re.compile(r'^(Icon|Banner) = "(registry/[\w.]+)"$', re.MULTILINE)
FIRST_AFTER_URLS = "[project.scripts]\n"


def with_addresses(text: str, repository: str, tag: str) -> str:
    """The text of a pyproject.toml with the addresses of a repository.

    Args:
        text: As it is in the repository.
        repository: Its owner and name, such as "owner/comfyui-ldm".
        tag: That is published; must be "v" and the version.

    Raises:
        ValueError: The tag is of another version, or the text is not as expected.
    """
    version = tomllib.loads(text)["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, but pyproject.toml has version {version}; tag v{version} or change it")
    text, found = PICTURES.subn(rf'\1 = "https://raw.githubusercontent.com/{repository}/{tag}/\2"', text)
    if found != 2 or text.count(FIRST_AFTER_URLS) != 1:
        raise ValueError(
            f"pyproject.toml has {found} of Icon and Banner as paths; expected both, and [project.scripts]"
        )
    urls = f'[project.urls]\nRepository = "https://github.com/{repository}"\n\n'
    return text.replace(FIRST_AFTER_URLS, urls + FIRST_AFTER_URLS)


if __name__ == "__main__":
    file = Path("pyproject.toml")
    try:
        written = with_addresses(
            file.read_text(encoding="utf-8"), os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_REF_NAME"]
        )
    except ValueError as error:
        sys.exit(str(error))
    file.write_text(written, encoding="utf-8")
