"""What the launcher prints: standard output for answers, standard error for all else, and no text that acts."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


class _Console(Console):
    """A console of rich's that lets a broken pipe through, for the command to end as shells expect."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that rich is handling when it calls this


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_DROPPED = dict.fromkeys(map(ord, "\a\b\v\f\r"))  # what progress bars move the cursor with


def visible(text: str) -> str:
    """Text from a log or a file with escapes for what a terminal would obey; tabs and line ends stay."""
    text = _COLOURS.sub("", text).translate(_DROPPED)
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode("ascii") for each in text
    )


def say(text: str, console: Console = out) -> None:
    """Prints an answer; the text is not cut, and what looks like markup is not obeyed."""
    console.print(visible(text), markup=False, soft_wrap=True)


def remark(text: str, style: str | None = None) -> None:
    """Prints to standard error: what happens meanwhile, and errors; nothing where nobody reads it any more."""
    with contextlib.suppress(OSError):
        err.print(visible(text), markup=False, soft_wrap=True, style=style)


def prepare_output() -> None:
    """Makes both outputs take any text: escapes where their encoding has no é, nowhere where they were closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        else:
            stream.reconfigure(errors="backslashreplace")


def drop_unwritten_output() -> None:
    """Throws away what standard output could not take, so that Python does not try again and complain at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, default=str))


def print_failure(record: dict[str, Any]) -> None:
    """Prints the reason of a failed job as the last word."""
    remark(record.get("FailureReason", "no reason was given"))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table where people look, tab-separated lines where programs do."""
    if out.is_terminal:
        out.print(table(columns, rows))
        return
    for row in [columns, *rows]:
        click.echo(visible("\t".join(row)))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of rich's, for a terminal."""
    found = Table(*map(visible, columns), box=None, header_style="bold", pad_edge=False)
    for row in rows:
        found.add_row(*(Text(visible(cell)) for cell in row))
    return found


@contextlib.contextmanager
def line_printer(console: Console) -> Iterator[Callable[[str], None]]:
    """A function that shows a line of a log; on a terminal with the epochs' progress below."""
    if not console.is_terminal:
        yield lambda line: say(line, console)
        return
    with Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def show(line: str) -> None:
            say(line, progress.console)
            if epoch := re.match(r"epoch=(\d+)/(\d+) ", line):
                progress.update(task, completed=int(epoch[1]), total=int(epoch[2]))

        yield show
