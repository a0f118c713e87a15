"""Labelled markets for the tests of the judge."""

import pandas as pd

from ml.data.sample_market import sample_market
from ml.optimal_position import labelled
from ml.settings import Settings

MINUTE = pd.Timedelta(minutes=1)
SMALL = Settings(lookback=30, horizon=20, spread=0.5, validation_fraction=0.2, test_fraction=0.0)


def market(rows, seed=1, predictability=1.0, config=SMALL):
    """So many labelled minutes of a simulated market."""
    return labelled(sample_market(rows + config.horizon, seed, predictability=predictability), config.horizon, 0)
