import shutil
import subprocess
import sys

import pytest
import tensorflow  # noqa: F401 (its first import starts a process)

from ml.errors import UserError
from ml.platform import cuda, hardware

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler to build libraries with")


def build(folder, name, *needed):
    """A library lib<name>.so.9 as NVIDIA's packages have them, linked to others that are built before it."""
    library = folder / "nvidia" / name / "lib" / f"lib{name}.so.9"
    library.parent.mkdir(parents=True)
    source = folder / "source.c"
    source.write_text("int answer(void) { return 42; }")
    linked = [str(folder / "nvidia" / other / "lib" / f"lib{other}.so.9") for other in needed]
    command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library.name},--no-as-needed", "-o", library, source, *linked]
    subprocess.run(command, check=True)


def run(packages, script):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(packages), *sys.path]}\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OPEN_ALL_BY_NAME = """
import ctypes
from ml.platform import cuda
cuda.open_libraries()
for name in cuda.NEEDED:
    try:
        ctypes.CDLL(f"lib{name}.so.9")
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
@needs_compiler
def test_a_process_finds_cudas_libraries_by_name_whatever_they_are_linked_to(tmp_path):
    build(tmp_path, "nvJitLink")
    build(tmp_path, "cusparse", "nvJitLink")
    build(tmp_path, "cusolver", "cusparse", "nvJitLink")
    build(tmp_path, "cublas")
    build(tmp_path, "cublasLt", "cublas", "cusolver")  # against the order in which they are tried
    for name in ("cudart", "cufft", "cudnn"):
        build(tmp_path, name)
    assert run(tmp_path, OPEN_ALL_BY_NAME) == ""
    assert "cudart" in run(tmp_path, OPEN_ALL_BY_NAME.replace("cuda.open_libraries()", ""))


@pytest.mark.slow
@needs_compiler
def test_the_library_that_cannot_be_opened_is_named_and_the_others_are_opened(tmp_path):
    for name in cuda.NEEDED:
        if name != "cusolver":
            build(tmp_path, name)
    found = run(tmp_path, "from ml.platform import cuda; cuda.open_libraries(); print(cuda.missing())")
    assert found in ("['libcuda.so.1', 'libcusolver.so']", "['libcusolver.so']")


def test_without_nvidias_packages_nothing_is_opened(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("it opened a library"))
    cuda.open_libraries()


@pytest.mark.parametrize(
    ("built_with_cuda", "missing", "remedy"),
    [
        (False, [], "this TensorFlow is built for CPUs; use the image built with ACCELERATOR=gpu"),
        (True, ["libcuda.so.1", "libcufft.so"], r"the driver's libcuda.so.1 is missing; .*--gpus all"),
        (True, ["libcufft.so"], "libcufft.so of CUDA cannot be opened; .*install requirements-gpu.txt again"),
        (True, [], "TF_CPP_MIN_LOG_LEVEL=0"),
    ],
)
def test_an_idle_gpu_is_refused_with_the_reason_and_the_remedy(built_with_cuda, missing, remedy, monkeypatch):
    monkeypatch.setattr("tensorflow.test.is_built_with_cuda", lambda: built_with_cuda)
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda _: [])
    monkeypatch.setattr(cuda, "missing", lambda: missing)
    with pytest.raises(UserError, match=f"the instance type is ml.g5.xlarge but .*{remedy}.*allow_cpu=true"):
        hardware.find_instance("float32", instance_type="ml.g5.xlarge")
