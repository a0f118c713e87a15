"""Every system call that a write makes in its folder, failing one at a time: the old content or the new one, in a line.

Of a model's files in tests/container/test_files.py, of publishing in tests/container/deliver/test_publishing.py.
"""

import shutil

import pytest

from injected import failing_calls
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.timeseries import time_series

REPLACE = """
import sys
from ml.data.sample_market import sample_market
from ml.databases import connect
from ml.timeseries import time_series
try:
    time_series(connect(f"files:/{sys.argv[1]}"), "/s").replace(sample_market(rows=3000, seed=4))
except Exception as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.slow
def test_a_series_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path):
    folder = tmp_path / "kydb"
    old, new = sample_market(rows=3000, seed=3), sample_market(rows=3000, seed=4)

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        time_series(connect(f"files:/{folder}"), "/s").replace(old)

    runs = 0
    for call, code, _, errors in failing_calls(REPLACE, folder, prepare):
        runs += 1
        found = connect(f"files:/{folder}").read("/s", reload=True).curve()["mid"].tolist()
        expected = [old, new] if code else [new]
        assert found in [frame["mid"].tolist() for frame in expected], call
        assert code == 0 or (errors.startswith("told: ") and errors.count("\n") == 1), (call, errors)
    assert runs > 5
