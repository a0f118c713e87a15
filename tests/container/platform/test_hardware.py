import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from ml.platform import hardware

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


@pytest.mark.parametrize(("count", "one_program"), [(1, True), (2, False)])
def test_one_gpu_runs_one_program_and_several_run_pieces(count, one_program, monkeypatch):
    names = [f"GPU:{number}" for number in range(count)]
    details = {"device_name": "NVIDIA H200", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [SimpleNamespace(name=name, device_type=kind) for name in names]
    )
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
    found = hardware.find_instance("auto", weights=47_618)
    assert found.one_program == one_program and found.compile_step and found.precision == "bfloat16"
    assert found.description == f"{count} x NVIDIA H200, multiplying in bfloat16 (compute capability 9.0)"
    assert found.facts["device"] == "NVIDIA H200" and found.facts.keys() >= {"driver", "CUDA", "cuDNN", "TensorFlow"}
