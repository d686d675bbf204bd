"""Tables of labels and values on standard output. Imports rich and the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..terminal import cleaned, one_line

_PIPE_WIDTH = 240  # columns of a table that no terminal shows, so that its lines stay whole


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print a label and a value in each line, between two rules."""
    table = Table(box=box.HORIZONTALS, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(one_line(label)), Text(cleaned(value)))  # as Text: to rich, [brackets] in a path are a style
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)
