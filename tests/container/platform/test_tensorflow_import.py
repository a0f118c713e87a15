import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from ml.platform.tensorflow_import import import_tensorflow
import_tensorflow()
assert "keras" in sys.modules
assert not {"matplotlib", "sklearn"} & set(sys.modules)
import matplotlib, sklearn  # which ffn brings
"""


@pytest.mark.slow
def test_what_keras_would_import_beside_itself_is_left_and_can_be_imported_later(pytestconfig):
    subprocess.run([sys.executable, "-c", SCRIPT, pytestconfig.rootpath / "container"], check=True)
