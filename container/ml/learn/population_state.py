"""Where the training of a population is, and how it goes into a checkpoint and comes back."""

import dataclasses
import math
from typing import Any

from ml.learn.checkpoint_file import Checkpoint, refuse_longer
from ml.learn.members import COMPLETED, DIVERGED, PRUNED

_NAMES_BYTES = 1_000  # of an array in a checkpoint beside its numbers, generously
_EPOCH_BYTES = 2_000  # of a network's metrics of an epoch as JSON, generously
_NETWORK_BYTES = 200  # of a network's other progress as JSON, generously
_STATUSES = ("", COMPLETED, PRUNED, DIVERGED)
_MEASURED = {"loss", "val_loss", "val_accuracy"}
_TYPES = {"epoch": int, "step": int, "seconds": float, "one_program": bool, "hardware": str} | dict.fromkeys(
    ("stacked", "loss_sum", "correct_sum", "histories", "best_epochs", "statuses"), list
)


@dataclasses.dataclass
class PopulationProgress:
    """Where a population is; with the arrays, all that a resume needs. Lists are by network unless they say otherwise.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the epoch after them.
        seconds: spent in that epoch so far.
        stacked: the networks whose weights are in the arrays, which those that leave may still be.
        loss_sum: of the epoch under way, over windows; by place in `stacked`.
        correct_sum: likewise, windows predicted right.
        histories: one dict of metrics an epoch.
        best_epochs: the epoch (from 1) whose weights are kept; 0: none yet.
        statuses: empty while it is trained, then why it is not.
        one_program: whether its steps run as one program, to which a resume keeps wherever it runs.
        hardware: what its last part was trained on.
    """

    epoch: int
    step: int
    seconds: float
    stacked: list[int]
    loss_sum: list[float]
    correct_sum: list[float]
    histories: list[list[dict[str, float]]]
    best_epochs: list[int]
    statuses: list[str]
    one_program: bool
    hardware: str

    @classmethod
    def begun(cls, networks: int, *, one_program: bool, hardware: str) -> "PopulationProgress":
        """Before the first step."""
        each, zeros = range(networks), [0.0] * networks
        return cls(
            epoch=0,
            step=0,
            seconds=0.0,
            stacked=list(each),
            loss_sum=zeros,
            correct_sum=list(zeros),
            histories=[[] for _ in each],
            best_epochs=[0] * networks,
            statuses=[""] * networks,
            one_program=one_program,
            hardware=hardware,
        )

    @property
    def trained(self) -> list[int]:
        """The networks that are still trained."""
        return [network for network, status in enumerate(self.statuses) if not status]

    def begin_epoch(self) -> None:
        """Sets to zero what is counted within an epoch."""
        self.step, self.seconds = 0, 0.0
        self.loss_sum, self.correct_sum = ([0.0] * len(self.stacked) for _ in range(2))


@dataclasses.dataclass(frozen=True)
class PopulationLimits:
    """What a checkpoint of a population must be.

    Attributes:
        networks: how many there are.
        epochs: how many are to be trained.
        steps: of each.
        shapes: of every array by its name, while all networks are stacked: what is of networks has three axes, the
            first of which is theirs.
    """

    networks: int
    epochs: int
    steps: int
    shapes: dict[str, tuple[int, ...]]

    def largest(self) -> int:
        """Bytes that a checkpoint cannot exceed."""
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        text = _NETWORK_BYTES * self.networks + _EPOCH_BYTES * (self.epochs + 1) * self.networks
        return 8 * numbers + _NAMES_BYTES * (len(self.shapes) + 2) + text

    def check(self, checkpoint: Checkpoint) -> None:
        """Looks whether a checkpoint can be one of this population.

        Raises:
            ValueError: it is not of these networks and optimizer, or its progress cannot be true.
            UserError: it is of a longer training.
        """
        progress = checkpoint.progress
        if not self._can_be(progress):
            raise ValueError("its progress does not fit this training")
        for name in sorted(self.shapes.keys() | checkpoint.arrays.keys()):
            shape, array = self.shapes.get(name), checkpoint.arrays.get(name)
            if shape and len(shape) == 3 and not name.startswith("best_"):
                shape = (len(progress["stacked"]), *shape[1:])
            if array is None or array.shape != shape:
                raise ValueError(f"{name} has shape {None if array is None else array.shape} and must have {shape}")
            if array.dtype.kind not in "fiu":
                raise ValueError("its arrays are not numbers")
        refuse_longer(progress, self.epochs)

    def _can_be(self, progress: dict[str, Any]) -> bool:
        """Whether what a file says of its progress is whole and within this training's steps."""
        names = {field.name for field in dataclasses.fields(PopulationProgress)}
        if progress.keys() != names or not all(isinstance(progress[name], kind) for name, kind in _TYPES.items()):
            return False
        stacked, epoch = progress["stacked"], progress["epoch"]
        by_network = [progress[name] for name in ("histories", "best_epochs", "statuses")]
        return (
            all(isinstance(network, int) and 0 <= network < self.networks for network in stacked)
            and len(set(stacked)) == len(stacked) > 0
            and all(len(progress[name]) == len(stacked) for name in ("loss_sum", "correct_sum"))
            and all(isinstance(total, float) for name in ("loss_sum", "correct_sum") for total in progress[name])
            and all(len(values) == self.networks for values in by_network)
            and all(
                isinstance(history, list)
                and isinstance(best, int)
                and status in _STATUSES
                and 0 <= best <= len(history) <= epoch
                and (status or (len(history) == epoch and network in stacked))
                and all(isinstance(metrics, dict) and metrics.keys() >= _MEASURED for metrics in history)
                for network, (history, best, status) in enumerate(zip(*by_network, strict=True))
            )
            and 0 <= progress["step"] <= self.steps
        )
