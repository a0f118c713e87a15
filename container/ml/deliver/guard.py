"""Whether a model may take the place of the one under its key: a bad night never replaces a good model."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

_LEAST_ROWS = 0.75  # of those that the model under the key was made from


class Decision(NamedTuple):
    """Whether to publish, and why."""

    publish: bool
    reason: str


class Comparison(Protocol):
    """What two models came to on the same held-out rows (`ml.judge.comparison`)."""

    @property
    def text(self) -> str: ...

    @property
    def has_interval(self) -> bool: ...

    @property
    def has_skill(self) -> bool: ...

    @property
    def is_better(self) -> bool: ...

    @property
    def is_not_worse(self) -> bool: ...


def decide(
    publish_if: str,
    data: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    compare: Callable[[], Comparison],
    *,
    usable: bool,
) -> Decision:
    """Decides about a model that is trained and measured.

    Args:
        publish_if: always, not_worse or better.
        data: of the job: rows, and last, the time of the last one.
        record: of the version under the key; None: there is no model yet.
        compare: compares the model with the one under the key; called only where it is needed.
        usable: whether all of the model's probabilities are numbers.
    """
    if publish_if == "always":
        return Decision(True, "publish_if=always")
    if not usable:
        return Decision(False, "the model's probabilities are not numbers: the training diverged")
    if record is None:
        return Decision(True, "there was no model under the key")
    if problem := _data_problem(data, record):
        return Decision(False, problem)
    try:
        comparison = compare()
    except Exception as error:  # a file of another program's, say: whatever it is, nothing is replaced blindly
        return Decision(False, f"the model under the key cannot be compared with: {type(error).__name__}: {error}")
    if not comparison.has_interval:
        return Decision(False, f"too few rows to compare: {comparison.text}")
    if not comparison.is_not_worse:
        return Decision(False, f"worse: {comparison.text}")
    if not comparison.has_skill:
        return Decision(False, f"the model says no more than the share of buys does: {comparison.text}")
    if comparison.is_better:
        return Decision(True, f"better: {comparison.text}")
    return Decision(publish_if == "not_worse", f"not worse, and not shown to be better: {comparison.text}")


def _data_problem(data: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Why the prices are less than those of the model under the key; empty where they are not."""
    rows, last = record.get("rows"), record.get("last")
    if rows and data["rows"] < _LEAST_ROWS * rows:
        return (
            f"the history has {data['rows']:,} rows, and that of the model under the key {rows:,}: prices are missing"
        )
    if last and datetime.fromisoformat(data["last"]) < datetime.fromisoformat(last):
        return f"the history ends at {data['last']}, and that of the model under the key at {last}: prices are missing"
    return ""
