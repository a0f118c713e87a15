import os
import subprocess
import sys

import pytest

# What is chosen for a network on as many cores: whether it runs as one program, on how many threads, and its facts.
SCRIPT = """
import sys
from ml.platform import hardware
hardware.usable_cores = lambda: int(sys.argv[1])
instance = hardware.find_instance("float32", allow_cpu=True, weights=int(sys.argv[2]))
import tensorflow as tf
print(instance.one_program, tf.config.threading.get_intra_op_parallelism_threads(), instance.facts.get("threads"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cores", "weights", "chosen"),
    [
        (16, 47_618, "True 4 4"),  # the default network
        (16, 2_527_234, "False"),  # the original one
        (2, 47_618, "False"),
    ],
)
def test_a_small_network_on_many_cores_is_one_program_on_four_threads(cores, weights, chosen):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path}\n{SCRIPT}", str(cores), str(weights)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(chosen)
