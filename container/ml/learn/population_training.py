"""The training of a population on a fold, from its rows to the network that is kept."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.errors import UserError
from ml.learn.fold_training import Places, identity_of
from ml.learn.folds import Fold, Outcome, Predicted, Trained
from ml.learn.members import STOPPED, Member, MemberResult, best_first
from ml.log import say

if TYPE_CHECKING:
    from ml.learn.devices import Instance

_TOLD = 10  # networks at the end


@dataclasses.dataclass(frozen=True)
class Population:
    """What came of a population.

    Attributes:
        results: of each network, in order.
        predicted: the rows of `Fold.validation_rows` at which a window ends, and each network's probabilities of buy,
            float32, (rows, networks), nan where a network has no weights; None where the job was stopped.
        stopped: whether a signal ended it.
    """

    results: list[MemberResult]
    predicted: Predicted | None
    stopped: bool


def train_members(
    members: Sequence[Member],
    halving: float,
    instance: "Instance",
    data: str,
    places: Places,
    stop: Callable[[], bool],
    fold: Fold,
) -> Population:
    """Trains networks at once; any part of a population by itself, but for halving, which compares those it is given.

    Args:
        members: from `members_of`, or some of them.
        halving: after each of the first epochs the best 1/halving are kept.
        instance: the devices.
        data: hash of the labelled prices.
        places: of the checkpoints and logs.
        stop: whether the process is asked to end.
        fold: the rows to train and to validate on.

    Raises:
        UserError: a checkpoint of this job is of another training, or every network diverged.
    """
    # TensorFlow takes seconds to import; whoever only cuts folds does without.
    from ml.learn.checkpoints import CheckpointFolder
    from ml.learn.population import PopulationTrainer
    from ml.train_sequence import TrainSequence

    if instance.precision == "float16":
        raise UserError(
            "a population cannot share the loss scale that float16 needs, which one member that diverges would spoil "
            "for all; set precision=float32"
        )
    shared = members[0].settings
    longest = max(member.settings.lookback for member in members)

    def sequence(rows, **options) -> TrainSequence:
        return TrainSequence(
            rows,
            longest,
            shared.batch_size,
            max_gap=shared.max_gap,
            skip_flat=True,
            longest_lookback=shared.rows_lookback,
            **options,
        )

    if fold.validation_rows is None:
        raise ValueError("a population needs validation rows")
    train, validation = sequence(fold.train_rows), sequence(fold.validation_rows, enable_shuffle=False)
    trainer = PopulationTrainer(members, instance, train, validation, halving)
    for each in (train, validation):
        each.free_prices()
    results = trainer.fit(
        stop=stop,
        checkpoints=CheckpointFolder(places.checkpoints, places.job) if places.checkpoints else None,
        identity=population_identity(members, halving, instance.precision, data, fold),
        tensorboard=places.tensorboard,
        report=fold.report,
    )
    stopped = stop() or any(result.status == STOPPED for result in results)
    ends = validation.starts + (longest - 1)
    return Population(results, None if stopped else (ends, trainer.probabilities()), stopped)


def population_identity(
    members: Sequence[Member], halving: float, precision: str, data: str, fold: Fold
) -> dict[str, Any]:
    """What a checkpoint must share with the job that resumes from it; of what members differ in, its hash."""
    shared = identity_of(members[0].settings, precision, data, fold)
    own = [member.settings.changing_weights() for member in members]
    text = json.dumps([[member.number, settings] for member, settings in zip(members, own, strict=True)])
    varied = {name for member in members for name in member.point} | {"longest_lookback"}
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {name: value for name, value in shared.items() if name not in varied} | {
        "population": f"{len(members)} members, {digest}",
        "halving": halving,
    }


def kept_of(population: Population, monitor: str) -> tuple[MemberResult, Outcome]:
    """The network that is kept, and what a job of its own would come to."""
    from ml.learn.network import build_network
    from ml.learn.trainer import TrainingResult

    kept = best_first(population.results, monitor)[0]
    model = build_network(kept.member.settings)
    if kept.weights:
        model.set_weights(kept.weights)
    place = population.results.index(kept)

    def predict() -> Predicted:
        if population.predicted is None:
            raise ValueError("a population that was stopped predicts nothing")
        rows, probabilities = population.predicted
        return rows, np.ascontiguousarray(probabilities[:, place])

    result = TrainingResult(kept.history, kept.best_epoch, population.stopped)
    results = [] if population.stopped else [result]
    return kept, Outcome(Trained(model, result, predict), results, [], population.stopped)


def described(members: Sequence[Member], halving: float) -> str:
    """What a job trains at once, as a line for the log."""
    varied = sorted({name for member in members for name in member.point})
    dropped = f"; after each of the first epochs the best 1/{halving:g} go on" if halving > 1 else ""
    return f"a population of {len(members)} members, which differ in {', '.join(varied) or 'nothing'}{dropped}"


def tell_best(ranked: Sequence[MemberResult], monitor: str) -> None:
    """Prints the first networks of those that are ranked, a line each."""
    for rank, result in enumerate(ranked[:_TOLD], 1):
        point = ", ".join(f"{name} {value}" for name, value in result.member.point.items())
        reached = (
            f"{monitor} {result.best[monitor]:.6g} in epoch {result.best_epoch} of {len(result.history)}"
            if result.best_epoch
            else "no epoch to keep"
        )
        say(f"{rank}. member {result.member.number} ({result.status}): {reached}; {point}")
    if len(ranked) > _TOLD:
        say(f"and {len(ranked) - _TOLD} more, in leaderboard.csv")
