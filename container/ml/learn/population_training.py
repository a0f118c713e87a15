"""The training of a population on a fold, from its rows to the network that is kept."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.errors import UserError
from ml.learn.fold_training import Places, identity_of, windows_of
from ml.learn.folds import Fold, Outcome, Predicted, Trained
from ml.learn.hosts import Hosts
from ml.learn.links import Message
from ml.learn.members import STOPPED, Member, MemberResult, best_first
from ml.log import say
from ml.metrics import metric_line

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
    hosts: Hosts,
    members: Sequence[Member],
    train: Callable[[Sequence[Member]], Population],
    stop: Callable[[], bool] = lambda: False,
) -> Population | None:
    """Trains each network on one of the hosts, and brings together on the first what came of them.

    Args:
        hosts: each calls this.
        members: from `members_of`.
        train: trains networks at once on this host alone.
        stop: whether any host is asked to end, as `Hosts.hearing_of_stops` says it.

    Returns:
        What came of all networks on the first host; None on the others.

    Raises:
        UserError: every network diverged.
    """
    mine = hosts.shared_out(members)
    found = train(mine) if mine else Population([], None, False)
    stopped = hosts.any("stop", stop() or found.stopped)
    told = [found, *(_heard(members, message) for message in hosts.gathered("members", _told(found))[1:])]
    if not hosts.first:
        return None
    results = [result for each in told for result in each.results]
    order = sorted(range(len(results)), key=lambda place: results[place].member.number)
    results = [results[place] for place in order]
    if stopped:
        return Population(results, None, True)
    if not any(result.best_epoch for result in results):
        from ml.learn.trainer import DIVERGED as DIVERGED_BECAUSE

        raise UserError(
            f"training diverged: {DIVERGED_BECAUSE} after its first epoch, for every member of the population; "
            "lower their learning_rate"
        )
    if hosts.count > 1:  # epochs' lines were those of this host's members; whoever tunes reads the last one
        best = best_first(results, results[0].member.settings.monitor)[0]
        epochs = best.member.settings.epochs
        say(metric_line(len(best.history), epochs, best.history[-1]), metrics=True)
    predicted = [each.predicted for each in told if each.predicted]
    probabilities = np.concatenate([probabilities for _, probabilities in predicted], axis=1)[:, order]
    return Population(results, (predicted[0][0], probabilities), False)


def _told(found: Population) -> Message:
    """What came of some networks, as one host tells it the first."""
    values, arrays = [], {}
    for result in found.results:
        values.append([result.member.number, result.status, result.history, result.best_epoch])
        arrays |= {f"weights_{result.member.number}_{i}": weights for i, weights in enumerate(result.weights)}
    if found.predicted:
        arrays |= dict(zip(("rows", "probabilities"), found.predicted, strict=True))
    return Message(values, arrays)


def _heard(members: Sequence[Member], message: Message) -> Population:
    """What `_told` made a message of."""
    of_number = {member.number: member for member in members}
    results = []
    for number, status, history, best_epoch in message.values:
        names = [name for name in message.arrays if name.startswith(f"weights_{number}_")]
        weights = [message.arrays[f"weights_{number}_{i}"] for i in range(len(names))]
        results.append(MemberResult(of_number[number], status, history, best_epoch, weights))
    predicted = (message.arrays["rows"], message.arrays["probabilities"]) if "rows" in message.arrays else None
    return Population(results, predicted, False)


def train_at_once(
    halving: float,
    instance: "Instance",
    data: str,
    places: Places,
    stop: Callable[[], bool],
    fold: Fold,
    hosts: Hosts,
    members: Sequence[Member],
) -> Population:
    """Trains networks at once on this host.

    Args:
        halving: after each of the first epochs the best 1/halving are kept; several hosts cannot compare theirs.
        instance: the devices of this host.
        data: hash of the labelled prices.
        places: of the checkpoints and logs.
        stop: whether any host is asked to end.
        fold: the rows to train and to validate on.
        hosts: of the job; the first one tells of its epochs.
        members: the networks that are this host's.

    Raises:
        UserError: a checkpoint of this job is of another training.
    """
    # TensorFlow takes seconds to import; whoever only cuts folds does without.
    from ml.learn.checkpoints import CheckpointFolder
    from ml.learn.population import PopulationTrainer
    from ml.learn.trainer import silent

    if instance.precision == "float16":
        raise UserError(
            "a population cannot share the loss scale that float16 needs, which one member that diverges would spoil "
            "for all; set precision=float32"
        )
    shared = members[0].settings
    longest = max(member.settings.lookback for member in members)
    widest = dataclasses.replace(shared, lookback=longest, longest_lookback=shared.rows_lookback)
    if fold.validation_rows is None:
        raise ValueError("a population needs validation rows")
    train = windows_of(fold.train_rows, widest)
    validation = windows_of(fold.validation_rows, widest, enable_shuffle=False)
    trainer = PopulationTrainer(members, instance, train, validation, halving)
    for each in (train, validation):
        each.free_prices()
    subfolder = "" if hosts.count == 1 else f"members-{members[0].number}"
    results = trainer.fit(
        stop=stop,
        checkpoints=CheckpointFolder(places.checkpoints, places.job, subfolder) if places.checkpoints else None,
        identity=population_identity(members, halving, instance.precision, data, fold),
        tensorboard=places.tensorboard,
        report=fold.report if hosts.first else silent,
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
