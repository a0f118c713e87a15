"""What a training runs on: devices, the precision of their multiplications, and what XLA compiles."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml.learn.hosts import ONE_HOST, Hosts

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Instance:
    """The devices a job trains on and how it uses them; `ml.platform.hardware` makes one.

    Attributes:
        description: one line for the log: the devices, the precision and why.
        strategy: tf.distribute strategy over the devices.
        precision: of the multiplications: float32, bfloat16 or float16.
        compile_step: whether XLA compiles a whole step's gradients, or only the loops between its
            multiplications.
        compile_update: whether XLA compiles the optimizer's update.
        one_program: whether XLA compiles the whole loop over many steps instead, which one device alone can run.
        facts: what results depend on to the last bit beside the job: the device, its driver, versions.
        programs: folders that keep what XLA compiled, for a resume.
        keep_programs: writes what is new to them; called before a checkpoint is written.
        hosts: that train one network together, `strategy` being over the devices of them all; else of one host.
    """

    description: str
    strategy: "tf.distribute.Strategy"
    precision: str
    compile_step: bool
    compile_update: bool
    one_program: bool = False
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    programs: Sequence[Path] = ()
    keep_programs: Callable[[], None] = lambda: None
    hosts: Hosts = ONE_HOST

    @property
    def hardware(self) -> str:
        """The facts as a line."""
        return ", ".join(f"{name} {value}" for name, value in self.facts.items())
