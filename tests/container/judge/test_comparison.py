"""Two models on the same held-out rows."""

import numpy as np
import pytest

from ml.judge.comparison import compared

BLOCK = 100


def rows(count, seed=0):
    """Labels that persist, and what a model can know of them."""
    rng = np.random.default_rng(seed)
    known = np.repeat(rng.normal(size=count // 10), 10)
    return known + 0.3 * rng.normal(size=count) > 0, known


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def test_a_model_that_knows_more_is_better_and_the_other_way_round_worse():
    labels, known = rows(5000)
    good, poor = sigmoid(3 * known), sigmoid(0.2 * known)
    comparison = compared(good, poor, labels, BLOCK, 0.5)
    assert comparison.is_better and comparison.is_not_worse
    other = compared(poor, good, labels, BLOCK, 0.5)
    assert not other.is_better and not other.is_not_worse
    assert other.difference.value == pytest.approx(-comparison.difference.value)
    assert comparison.difference.value == pytest.approx(comparison.new - comparison.old)


def test_the_same_model_is_not_better_and_not_worse():
    labels, known = rows(5000)
    comparison = compared(sigmoid(known), sigmoid(known), labels, BLOCK, 0.5)
    assert not comparison.is_better and comparison.is_not_worse


def test_pairing_leaves_out_what_both_models_find_hard():
    labels, known = rows(5000)
    paired = compared(sigmoid(2 * known), sigmoid(1.9 * known), labels, BLOCK, 0.5).difference
    constant = np.full(len(labels), 0.5)  # loses the same on every row
    alone = compared(sigmoid(2 * known), constant, labels, BLOCK, 0.5).difference
    assert paired.high - paired.low < (alone.high - alone.low) / 4


def test_rows_too_few_for_an_interval_say_nothing():
    labels, known = rows(400)
    comparison = compared(sigmoid(3 * known), 1 - sigmoid(3 * known), labels, BLOCK, 0.5)
    assert not comparison.is_better and not comparison.is_not_worse
    assert comparison.text.endswith("(no interval from fewer than 5 blocks of 100 rows; hold out more)")


def test_certain_and_wrong_is_a_large_loss_and_not_an_infinite_one():
    labels, _ = rows(1000)
    comparison = compared(np.where(labels, 0.0, 1.0), np.full(len(labels), 0.5), labels, BLOCK, 0.5)
    assert np.isfinite(comparison.new) and comparison.new > 10
    assert not comparison.is_not_worse


def test_where_the_labels_are_broken_a_model_that_learned_nothing_is_better_and_has_no_skill():
    labels, known = rows(5000)
    broken = np.random.default_rng(1).permutation(labels)
    comparison = compared(np.full(len(labels), 0.5), sigmoid(3 * known), broken, BLOCK, 0.5)
    assert comparison.is_better
    assert not comparison.has_skill
    assert compared(sigmoid(3 * known), sigmoid(known), labels, BLOCK, 0.5).has_skill
