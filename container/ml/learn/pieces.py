"""Steps run as pieces that are compiled apart: on several devices, also of several hosts, and on CPUs.

A CPU's own multiplications are faster than XLA's for large networks.
"""

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from ml.learn.devices import Instance
from ml.learn.loop import Arithmetic, Sums, numbers
from ml.learn.network import graph
from ml.settings import Settings

# Windows trained in one call into TensorFlow: long enough that a call's own cost (about 1 ms) vanishes,
# short enough (under a second on 2 cores) that a stop signal or a due checkpoint never waits long.
WINDOWS_PER_CALL = 32_768

_MEASURED_WEIGHTS = 2_500_000  # of the network that WINDOWS_PER_CALL was measured with; larger ones take longer
_PREDICTED_AT_ONCE = 4096  # windows


class Pieces:
    """A `Loop` over separately compiled gradients and updates, many steps a call, each on all devices.

    Args:
        steps: the arithmetic.
        settings: batch_size, layers, and those that the network's size follows from; of several, the largest's.
        instance: the devices and what is compiled for them.
    """

    def __init__(self, steps: Arithmetic, settings: Settings, instance: Instance):
        self._steps, self._settings, self._strategy = steps, settings, instance.strategy
        self._hosts = instance.hosts
        self._gradients = graph(steps.gradients, jit_compile=instance.compile_step)
        # Not wrapped otherwise: several devices meet in the update, which a nested function cannot hold.
        apply = steps.optimizer.apply
        self._update = graph(apply, jit_compile=True) if instance.compile_update else apply
        self._order = self._keys = np.empty(0)
        starts, keys = tf.TensorSpec((None, None), steps.start_type), tf.TensorSpec((None, None), tf.uint32)
        orders = tf.TensorSpec((None, None, *steps.orders), steps.start_type)
        self._zero = tf.zeros(steps.networks) if steps.networks else 0.0
        self._train = graph(self._train_steps, input_signature=(orders, keys))
        self._measure = graph(self._measure_steps, input_signature=(starts, keys))
        self._predict = graph(self._predict_windows, input_signature=(tf.TensorSpec((None,), steps.start_type),))

    def begin_epoch(self, order: np.ndarray, keys: np.ndarray) -> None:
        self._order, self._keys = order, keys

    def train(self, first: int, last: int, sums: Sums) -> tuple[int, Sums]:
        starts = self._starts_of_call(self._order, first)[: last - first]
        of_this = self._train(starts, self._keys[first : first + len(starts)])
        loss, correct = self._of_all_hosts([numbers(total) for total in of_this])
        return len(starts), Sums(sums.loss + loss, sums.correct + correct)

    def measure(self, order: np.ndarray) -> Sums:
        loss_sum = correct_sum = 0.0
        for starts in self._calls(order):
            no_keys = np.zeros((len(starts), self._settings.layers), np.uint32)
            loss, correct = self._measure(starts, no_keys)
            loss_sum, correct_sum = loss_sum + numbers(loss), correct_sum + numbers(correct)
        return Sums(*self._of_all_hosts([loss_sum, correct_sum]))

    def predict(self, order: np.ndarray) -> np.ndarray:
        parts = range(0, len(order), _PREDICTED_AT_ONCE)
        found = np.concatenate([self._predict(order[first : first + _PREDICTED_AT_ONCE]).numpy() for first in parts])
        return self._hosts.summed("probabilities", found)

    def _of_all_hosts(self, sums: list[float]) -> list[float]:
        """The sums over the windows of all hosts, from those over this one's."""
        return sums if self._hosts.count == 1 else self._hosts.summed("sums", np.array(sums)).tolist()

    def _calls(self, order: np.ndarray) -> Iterator[np.ndarray]:
        step = 0
        while step * self._settings.batch_size < len(order):
            starts = self._starts_of_call(order, step)
            yield starts
            step += len(starts)

    def _starts_of_call(self, order: np.ndarray, step: int) -> np.ndarray:
        """Start rows of the steps of the next call: (steps, batch, ...).

        An epoch's first batch, after which it is known to run, and its last one, smaller than the others, are
        calls of their own.

        Args:
            order: start rows of all windows of an epoch, (windows, ...).
            step: the first step of the call.
        """
        batch = self._settings.batch_size
        weights = self._settings.weights * math.prod(self._steps.networks)
        windows = WINDOWS_PER_CALL * min(1, _MEASURED_WEIGHTS / weights)
        steps = max(1, int(windows) // batch) if step else 1
        starts = order[step * batch : (step + steps) * batch]
        whole = len(starts) // batch
        return starts[: whole * batch].reshape(whole, batch, *order.shape[1:]) if whole else starts[None, :]

    def _train_steps(self, starts, keys):
        """Trains on each row of starts.

        Args:
            starts: start rows of the windows, (steps, batch).
            keys: what each step's dropout masks are made from, uint32, (steps, hidden layers).

        Returns:
            The sums over this host's windows of the loss and of those predicted right.
        """
        return self._sums(self._replica_step, starts, keys)

    def _measure_steps(self, starts, keys):
        """The sums of `_train_steps` over validation windows; nothing is trained, and the keys are not used."""
        return self._sums(self._replica_measure, starts, keys)

    def _predict_windows(self, starts):
        """Probability of buy of the validation windows that begin at starts: float32, (batch,)."""
        # A device leaves zeros where a window is another's.
        return self._of_all_devices(self._strategy.run(self._replica_predict, (starts,)))

    def _sums(self, replica_function, starts, keys):
        """Runs a function on each row of starts, over all devices, and adds up what it returns on this host's."""

        def run(step, *sums):
            results = self._strategy.run(replica_function, (starts[step], keys[step]))
            return step + 1, *(
                total + self._of_all_devices(result) for total, result in zip(sums, results, strict=True)
            )

        zero = self._zero
        _, *sums = tf.while_loop(lambda step, *_: step < tf.shape(starts)[0], run, (0, zero, zero))
        return sums

    def _of_all_devices(self, result):
        """The sum of what each device of this host has; other hosts' is asked for once a call, not in each step."""
        return tf.add_n(list(self._strategy.experimental_local_results(result)))

    def _replica_step(self, starts, keys):
        mine, rows = _share(starts)
        gradients, loss, correct = self._gradients(mine, keys, rows)
        self._update(gradients)
        return loss, correct

    def _replica_measure(self, starts, keys):
        mine, rows = _share(starts)
        loss, correct, _ = self._steps.measure(mine, rows)
        return loss, correct

    def _replica_predict(self, starts):
        mine, rows = _share(starts)
        shape = [tf.shape(starts)[0], *self._steps.networks]
        return tf.scatter_nd(rows[:, None], self._steps.predict(mine, rows), shape)


def _share(starts):
    """The part of a batch that is this device's, and the place of each window in the whole."""
    context = tf.distribute.get_replica_context()
    # Not tf.range(first, ...): where a device has no window, it would begin beyond its end, which is an error.
    rows = tf.range(tf.shape(starts)[0])[context.replica_id_in_sync_group :: context.num_replicas_in_sync]
    return tf.gather(starts, rows), rows
