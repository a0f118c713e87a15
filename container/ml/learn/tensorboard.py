"""TensorBoard logs of a training's metrics; a folder that cannot be written costs the logs, never the training."""

from pathlib import Path

import tensorflow as tf

from ml.errors import one_line
from ml.log import say


class ScalarLog:
    """Writes each epoch's metrics for TensorBoard; a context that closes the file.

    Args:
        folder: where the file goes; None: nothing is written.
    """

    def __init__(self, folder: Path | None):
        self._writer = None
        try:
            self._writer = tf.summary.create_file_writer(str(folder)) if folder else None
        except tf.errors.OpError as error:
            say(f"no TensorBoard logs: {one_line(error)}")
        # tf.summary.scalar needs the tensorboard package, which the image leaves out; this is what it does.
        self._metadata = tf.compat.v1.SummaryMetadata()
        self._metadata.plugin_data.plugin_name = "scalars"

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Writes an epoch's metrics; a full disk is passed over."""
        if not self._writer:
            return
        try:
            with self._writer.as_default():
                for name, value in metrics.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), step=epoch, metadata=self._metadata)
                self._writer.flush()
        except tf.errors.OpError:
            return

    def __enter__(self) -> "ScalarLog":
        return self

    def __exit__(self, *_) -> None:
        if self._writer:
            try:
                self._writer.close()
            except tf.errors.OpError:
                return
