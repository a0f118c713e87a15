"""Following a job to its end, training and tuning jobs alike, and what Ctrl-C does meanwhile."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.live import Live

import leaderboard
from console import err, line_printer, out, print_failure, remark, say, table
from place.base import FINAL, Job, status_of
from request import FIRST_HOST, objective_of
from results import print_end_of_tuning, print_training_job, print_tuning_job, write_members

INTERRUPTED = 130  # what a shell reports for Ctrl-C

View = AbstractContextManager[Callable[[], None]]  # of a function that shows a job until it ends


def follow(job: Job, view: View, *, interrupt_stops_job: bool) -> bool:
    """Shows a job until it ends.

    Args:
        job: the job.
        view: how it is shown; called again after an interruption, it goes on where it was.
        interrupt_stops_job: whether Ctrl-C asks the job to stop, and is obeyed itself the second time only.

    Returns:
        Whether Ctrl-C stopped the job.

    Raises:
        SystemExit: Ctrl-C ended the following; the job goes on.
        Exception: the following failed, such as without a network; the job goes on, and a note says so.
    """
    interrupted = False
    with view as show_until_end:
        while True:
            try:
                show_until_end()
                return interrupted
            except KeyboardInterrupt:
                if interrupted or not interrupt_stops_job:
                    remark(f"\n{_way_back(job)}")
                    sys.exit(INTERRUPTED)
                interrupted = True
                remark(f"\nstopping the {job.kind}; once more leaves it to stop by itself")
                job.stop()
            except Exception as error:
                error.add_note(_way_back(job))
                raise


def _way_back(job: Job) -> str:
    return f"{job.name} goes on; come back with: python sagemaker/launch.py logs {job.name}"


def follow_to_summary(job: Job, *, as_json: bool) -> int:
    """Shows a job that was just started until it ends, then what it came to.

    Returns:
        The exit code of a command: 0 where the job completed.
    """
    remark(f"{job.kind} {job.name} on {job.place.name}")
    console = err if as_json else out
    view = leaderboard_view(job, console) if job.tuning else log_view(job, console)
    interrupted = follow(job, view, interrupt_stops_job=job.place.interrupt_stops_job)
    record = job.describe()
    completed = status_of(record) == "Completed"
    if job.tuning:
        _end_tuning(job, record, as_json=as_json, interrupted=interrupted)
    else:
        if completed:
            job.place.collect(job.name)
            write_members(job, record)
        print_training_job(job, record, as_json=as_json, verdicts=False)  # the log that was shown has them
    return INTERRUPTED if interrupted else 0 if completed else 1


def _end_tuning(job: Job, record: dict[str, Any], *, as_json: bool, interrupted: bool) -> None:
    trials = job.trials()
    if not job.place.own_search:
        leaderboard.write_files(job.folder, record, trials)
    if not as_json:
        say("")
    print_tuning_job(job, record, trials, as_json=as_json)
    if not as_json:
        print_end_of_tuning(job, record, trials)
        if interrupted:
            say(f"go on: python sagemaker/launch.py tune --resume {job.name}")
    if status_of(record) == "Failed":
        print_failure(record)


@contextlib.contextmanager
def log_view(
    job: Job, console: Console, *, to_end: bool = True, host: str = FIRST_HOST
) -> Iterator[Callable[[], None]]:
    """The lines of a job's log, each once; on a terminal with the epochs' progress below.

    Args:
        job: the job.
        console: where to.
        to_end: whether to wait for the job's end, or to show what there is.
        host: of a training job, whose log.
    """
    shown = 0
    with line_printer(console) as show:

        def show_until_end() -> None:
            nonlocal shown
            for line in itertools.islice(job.place.lines(job.name, follow=to_end, host=host), shown, None):
                show(line)
                shown += 1

        yield show_until_end


@contextlib.contextmanager
def leaderboard_view(job: Job, console: Console) -> Iterator[Callable[[], None]]:
    """A tuning job's leaderboard, which renews itself on a terminal; elsewhere a line for each change."""
    shown = dict[str, str]()

    def show_changes(record: dict[str, Any], trials: list[dict[str, Any]]) -> None:
        for trial in trials:
            name, status, value = trial["TrainingJobName"], status_of(trial), leaderboard.objective_value(trial)
            if shown.get(name) != status:
                shown[name] = status
                final = value is not None and status in FINAL
                say(f"{name} {status}" + (f" {objective_of(record)[0]}={value:.6g}" if final else ""), console)

    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def show_until_end() -> None:
        while True:
            record, trials = job.describe(), job.trials()
            if live:
                live.update(table(*leaderboard.table(record, trials)), refresh=True)
            else:
                show_changes(record, trials)
            if status_of(record) in FINAL:
                return
            time.sleep(job.place.poll_seconds)

    with live or contextlib.nullcontext():
        yield show_until_end
