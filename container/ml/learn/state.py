"""Where a training is, and how it goes into a checkpoint and comes back."""

import dataclasses
from typing import Any

import numpy as np

from ml.learn.checkpoint_file import Checkpoint, refuse_longer
from ml.learn.devices import Instance
from ml.learn.step import Steps

_NAMES_BYTES = 1_000  # of an array in a checkpoint beside its numbers, generously
_EPOCH_BYTES = 2_000  # of an epoch's metrics as JSON, generously
_ADDED = {"one_program", "hardware"}  # to what a checkpoint holds, since checkpoints of version 0.9.0


@dataclasses.dataclass
class Progress:
    """Where a training is; with the arrays, all that a resume needs.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the epoch after them.
        loss_sum: of that epoch so far, over windows.
        correct_sum: likewise, windows predicted right.
        seconds: spent in that epoch so far.
        history: one dict of metrics an epoch, as printed.
        best_epoch: the epoch (from 1) whose weights are kept; 0: none yet.
        one_program: whether its steps run as one program, to which a resume keeps wherever it runs.
        hardware: what its last part was trained on; empty where nobody said.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    one_program: bool = False
    hardware: str = ""


class TrainingState:
    """A training's progress, and the arrays that belong to it.

    Args:
        steps: hold the weights and the optimizer's slots.
        epochs: how many are to be trained.
        steps_an_epoch: steps of each.
        validated: whether there are validation metrics.
        instance: the devices.

    Attributes:
        progress: where the training is.
        best: the weights of `progress.best_epoch`; None: there are none yet.
    """

    def __init__(self, steps: Steps, epochs: int, steps_an_epoch: int, *, validated: bool, instance: Instance):
        self.progress = Progress(one_program=instance.one_program, hardware=instance.hardware)
        self.best: list[np.ndarray] | None = None
        self._variables = {"weight": steps.weights, "optimizer": steps.optimizer.variables}
        self._epochs, self._steps_an_epoch, self._validated = epochs, steps_an_epoch, validated

    def keep_weights(self) -> None:
        """Keeps the weights of now as the best."""
        self.best = [weight.numpy() for weight in self._variables["weight"]]

    def checkpoint(self, identity: dict[str, Any]) -> Checkpoint:
        """All of it, copied."""
        arrays = {
            f"{name}_{i}": variable.numpy()
            for name, variables in self._variables.items()
            for i, variable in enumerate(variables)
        }
        arrays |= {f"best_{i}": weight for i, weight in enumerate(self.best or ())}
        return Checkpoint(identity, dataclasses.asdict(self.progress), arrays)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint that `check` let pass."""
        arrays = checkpoint.arrays
        for name, variables in self._variables.items():
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{name}_{i}"])
        if "best_0" in arrays:
            self.best = [arrays[f"best_{i}"] for i in range(len(self._variables["weight"]))]
        self.progress = Progress(**checkpoint.progress)

    def largest_checkpoint(self) -> int:
        """Bytes that a checkpoint of this training cannot exceed."""
        shapes = self._shapes(with_best=True)
        numbers = sum(int(np.prod(shape)) for shape in shapes.values())
        return 8 * numbers + _NAMES_BYTES * (len(shapes) + 2) + _EPOCH_BYTES * (self._epochs + 1)

    def check(self, checkpoint: Checkpoint) -> None:
        """Looks whether a checkpoint can be one of this training.

        Raises:
            ValueError: it is not of this network and optimizer, or its progress cannot be true.
            UserError: it is of a longer training.
        """
        expected = self._shapes(with_best=bool(checkpoint.progress.get("best_epoch")))
        found = {name: array.shape for name, array in checkpoint.arrays.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ValueError(f"{name} has shape {found.get(name)} and must have {expected.get(name)}")
        if any(array.dtype.kind not in "fiu" for array in checkpoint.arrays.values()):
            raise ValueError("its arrays are not numbers")
        progress = checkpoint.progress
        if not self._can_be(progress):
            raise ValueError("its progress does not fit this training")
        refuse_longer(progress, self._epochs)

    def _can_be(self, progress: dict[str, Any]) -> bool:
        """Whether what a file says of its progress is whole and within this training's steps."""
        fields = {field.name: field.default for field in dataclasses.fields(Progress) if field.name != "history"}
        measured = {"loss", "val_loss", "val_accuracy"} if self._validated else {"loss"}
        return (
            progress.keys() | _ADDED == fields.keys() | {"history"}
            and all(type(progress.get(name, default)) is type(default) for name, default in fields.items())
            and isinstance(progress["history"], list)
            and all(isinstance(epoch, dict) and measured <= epoch.keys() for epoch in progress["history"])
            and 0 <= progress["best_epoch"] <= progress["epoch"] == len(progress["history"])
            and 0 <= progress["step"] <= self._steps_an_epoch
        )

    def _shapes(self, *, with_best: bool) -> dict[str, tuple[int, ...]]:
        """The shape of each array of a checkpoint."""
        groups = self._variables | ({"best": self._variables["weight"]} if with_best else {})
        return {
            f"{name}_{i}": tuple(variable.shape)
            for name, variables in groups.items()
            for i, variable in enumerate(variables)
        }
