"""train_on=decided: only windows that end on a decided bar count in the loss."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ml.errors import UserError
from ml.learn.network import build_network
from ml.learn.step import loss_weights
from ml.learn.trainer import Trainer
from ml.train_sequence import TrainSequence
from trainings import SMALL, cpu, same_weights, silent

DECIDED = dataclasses.replace(SMALL, train_on="decided", epochs=2)


def rows(count=1500, share=0.1):
    """Prices with positions of which one in ten is decided."""
    rng = np.random.default_rng(1)
    position, decided = rng.choice([-1.0, 1.0], count), rng.random(count) < share
    return pd.DataFrame({"mid": 1000 + rng.normal(size=count).cumsum(), "position": position, "decided": decided})


def trained(frame, settings, instance=None):
    """The model after a training on a frame, and what was measured."""
    instance = instance or cpu()
    with instance.strategy.scope():
        model = build_network(settings)
    train = TrainSequence(frame, settings.lookback, settings.batch_size, seed=1)
    trainer = Trainer(model, settings, instance, train, None)
    train.free_prices()
    return model, trainer.fit(report=silent).history


@pytest.mark.slow
@pytest.mark.parametrize("instance", [cpu(), cpu(one_program=True)], ids=["pieces", "program"])
def test_labels_that_are_carried_on_change_nothing(instance):
    frame = rows()
    other = frame.assign(position=np.where(frame["decided"], frame["position"], -frame["position"]))
    assert not same_weights(*(trained(each, SMALL, instance)[0] for each in (frame, other)))
    (one, measured), (same, others) = (trained(each, DECIDED, instance) for each in (frame, other))
    assert same_weights(one, same)
    assert measured[-1]["loss"] != others[-1]["loss"]  # the metrics are of all windows, as ever


def test_where_all_are_decided_both_are_the_same_training_bit_for_bit():
    frame = rows(share=1.0)
    (one, measured), (other, others) = (
        trained(frame, dataclasses.replace(DECIDED, train_on=on)) for on in ("all", "decided")
    )
    assert same_weights(one, other) and measured[-1]["loss"] == others[-1]["loss"]


def test_what_counts_is_learned_as_fast_as_if_all_counted():
    train = TrainSequence(rows(), 20, 64)
    weights = loss_weights(train, "decided")
    assert weights.dtype == np.float32 and weights[train.starts].mean() == pytest.approx(1, rel=1e-5)
    assert set(weights > 0) == {True, False} and loss_weights(train, "all") is None


def test_nothing_to_learn_from_is_told():
    with pytest.raises(UserError, match="needs a column decided"):
        loss_weights(TrainSequence(rows()[["mid", "position"]], 20, 64), "decided")
    with pytest.raises(UserError, match="none of the 1,481 training windows ends on a decided bar"):
        loss_weights(TrainSequence(rows(share=0.0), 20, 64), "decided")
