"""Price histories that tests are made of."""

import numpy as np
import pandas as pd

KEY = "/symbols/ml/training_data/FX_BTC_JPY"


def history(rows=5000, start="2020-01-01", seed=0, columns=("mid", "position")):
    rng = np.random.default_rng(seed)
    index = pd.date_range(start, periods=rows, freq="min", tz="UTC", unit="ns", name="dt")
    mid = 1000 + rng.normal(size=rows).cumsum() * 0.5
    values = {"mid": mid, "position": rng.integers(-1, 2, rows).astype(float), "bid": mid - 0.25, "ask": mid + 0.25}
    return pd.DataFrame({name: values[name] for name in columns}, index)


def assert_same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_freq=False)
