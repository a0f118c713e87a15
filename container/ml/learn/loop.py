"""What runs a training's steps: `pieces.Pieces` or `program.Program`."""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Sums(NamedTuple):
    """Over windows: of their losses, and how many are predicted right. Of several networks an array each, float64."""

    loss: Any = 0.0
    correct: Any = 0.0


def numbers(total) -> Any:
    """A tensor's number as Python's, or its numbers as a float64 array."""
    values = total.numpy()
    return float(values) if values.ndim == 0 else values.astype(np.float64)


class Arithmetic(Protocol):
    """The arithmetic of a step, which a loop runs: `step.Steps` of one network, `stacked.StackedSteps` of several.

    Attributes:
        start_type: of start rows.
        networks: () of one network, else (networks,): the shape of every sum and of a window's probabilities.
        orders: () of one network, else (orders,): the last axis of an epoch's start rows.
        optimizer: the update rule, which `apply`s gradients.
    """

    start_type: Any
    networks: tuple[int, ...]
    orders: tuple[int, ...]
    optimizer: Any

    def gradients(self, starts, keys, rows, used=None) -> Any:
        """The gradients of a batch, and its sums; as `step.Steps.gradients` says."""
        ...

    def measure(self, starts, rows, used=None) -> Any:
        """The sums over a batch of validation windows, and its probabilities of buy."""
        ...

    def predict(self, starts, rows) -> Any:
        """The probabilities of buy of a batch of validation windows."""
        ...


class Loop(Protocol):
    """Runs steps on the devices, many a call. Orders are start rows of windows."""

    def begin_epoch(self, order: np.ndarray, keys: np.ndarray) -> None:
        """Takes what the steps of an epoch are.

        Args:
            order: of all training windows, (windows,), or of several networks (windows, orders).
            keys: what each step's dropout masks are made from, uint32, (steps, keys of a step).
        """
        ...

    def train(self, first: int, last: int, sums: Sums) -> tuple[int, Sums]:
        """Trains the epoch's next steps, from its step `first` on and before `last`, for about a second at most.

        Returns:
            How many steps it trained, and the epoch's sums with theirs.
        """
        ...

    def measure(self, order: np.ndarray) -> Sums:
        """The sums over validation windows."""
        ...

    def predict(self, order: np.ndarray) -> np.ndarray:
        """Probability of buy of validation windows: float32, (windows,), or of several networks (windows, networks)."""
        ...
