"""What runs a training's steps: `pieces.Pieces` or `program.Program`."""

from typing import NamedTuple, Protocol

import numpy as np


class Sums(NamedTuple):
    """Over windows: of their losses, and how many are predicted right."""

    loss: float = 0.0
    correct: float = 0.0


class Loop(Protocol):
    """Runs steps on the devices, many a call. Orders are start rows of windows."""

    def begin_epoch(self, order: np.ndarray, keys: np.ndarray) -> None:
        """Takes what the steps of an epoch are.

        Args:
            order: of all training windows.
            keys: what each step's dropout masks are made from, uint32, (steps, hidden layers).
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
        """Probability of buy of validation windows: float32, (windows,)."""
        ...
