"""What the examples in docstrings may use without saying where it comes from; `make lint` runs them as doctests.

frame: 2,000 minutes of a simulated market with `bid`, `ask`, `mid` and `position`.
folder: an empty folder, as text, for a KYDB of files: `kydb.connect(f"files:/{folder}")`.
"""

import pytest

from ml.data.sample_market import sample_market
from ml.optimal_position import labelled


@pytest.fixture(autouse=True)
def _names_for_examples(doctest_namespace, tmp_path):
    doctest_namespace["frame"] = labelled(sample_market(rows=2300, seed=1), 300, 0)
    doctest_namespace["folder"] = str(tmp_path)
