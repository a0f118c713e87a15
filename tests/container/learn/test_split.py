"""One split in time for all instruments, against its definition row by row."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import UserError
from ml.learn.folds import folds_of
from ml.learn.split import rows_between, split_moments
from ml.segments import instrument_slices, segment_bounds
from ml.settings import Settings
from universes import universes


@settings(max_examples=100, deadline=None)
@given(universes(), st.integers(1, 30), st.integers(0, 20), st.sampled_from(["1min", "30min", "off"]), st.data())
def test_a_split_is_the_same_moments_for_all_and_no_label_looks_across(frame, held_out, purge, gap, data):
    later = data.draw(st.integers(0, 10))
    if held_out + later >= len(frame):
        return
    split = split_moments(frame, held_out, purge, gap, later)
    in_order = sorted(frame.index)
    assert split.held_out_begin == in_order[len(frame) - held_out - later]
    assert split.end == (in_order[len(frame) - later] if later else None)
    training = rows_between(frame, None, split.training_end)
    validated = rows_between(frame, split.held_out_begin, split.end)
    assert len(training) == (frame.index < split.training_end).sum()
    inside = frame.index >= split.held_out_begin
    assert len(validated) == (inside if split.end is None else inside & (frame.index < split.end)).sum()
    bounds, tight = segment_bounds(frame, gap), split.training_end == split.held_out_begin
    for rows in instrument_slices(frame).values():
        for first, end in itertools.pairwise(bounds):
            if not rows.start <= first < rows.stop:
                continue
            times = frame.index[first:end]
            known, kept_back = times < split.training_end, times < split.held_out_begin
            if known.any() and not kept_back.all():
                between = int(kept_back.sum() - known.sum())
                assert between >= purge
            if kept_back.any() and not kept_back.all():  # this instrument may be the one that decides
                wanted = times[max(0, int(kept_back.sum()) - purge)]
                assert split.training_end <= wanted
                tight |= split.training_end == wanted
    assert tight  # no row is given away


def universe_of(*histories):
    frame = pd.concat([history.assign(symbol=name) for name, history in zip("ABC", histories, strict=False)])
    return frame.assign(symbol=frame["symbol"].astype("category"), position=1.0)


def minutes(begin, rows):
    index = pd.date_range(begin, periods=rows, freq="min", tz="UTC")
    return pd.DataFrame({"mid": 100 + np.arange(rows) % 7 / 8}, index)


def test_an_instrument_that_begins_late_or_ends_early_is_in_the_part_where_it_has_rows():
    frame = universe_of(minutes("2020-01-01", 1000), minutes("2020-01-01", 300), minutes("2020-01-01 16:00", 40))
    (fold,) = folds_of(frame, Settings(lookback=10, horizon=20, test_fraction=0, validation_fraction=0.1))
    assert [rows.stop - rows.start for rows in fold.parts[0]] == [876, 300, 0]
    assert [rows.stop - rows.start for rows in fold.parts[1]] == [94, 0, 40]
    assert fold.counts == (len(fold.train_rows), len(fold.validation_rows)) == (1176, 134)


def test_segments_too_short_for_a_window_are_told_with_what_to_change():
    parts = [minutes(f"2020-{month:02}-01", 30) for month in range(1, 11)]
    frame = pd.concat(parts).assign(position=1.0)
    with pytest.raises(UserError, match=r"has the 40 of one window, the longest has 30: gaps above max_gap \(4d\)"):
        folds_of(frame, Settings(lookback=40, horizon=5, test_fraction=0, validation_fraction=0.2))
    folds_of(frame, Settings(lookback=40, horizon=5, test_fraction=0, validation_fraction=0.2, max_gap="off"))
    with pytest.raises(UserError, match=r"\(max_gap|max_gap \(4d\).*smaller lookback or horizon"):
        folds_of(frame, Settings(lookback=40, horizon=5, test_fraction=0, validation_fraction=0))
