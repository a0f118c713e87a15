"""Publication that a bad night does not get through."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from ml.deliver.guard import decide
from ml.judge.comparison import compared

START = datetime(2026, 1, 1)
ROWS = 100_000
DATA = {"rows": ROWS, "last": str(START)}


def never():
    raise AssertionError("nothing is to be compared")


class Night:
    """A simulated night: held-out labels, what can be known of them, and what came of the training."""

    def __init__(self, number, kind="good"):
        rng = np.random.default_rng(number)
        known = np.repeat(rng.normal(size=200), 20)
        self.labels = known + 0.5 * rng.normal(size=len(known)) > 0
        if kind == "all labels shuffled":  # of the held-out rows, too, which the night before knew to read
            self.labels = rng.permutation(self.labels)
        self.known, self.number, self.kind = known, number, kind
        self.data = {"rows": ROWS // (2 if kind == "half the data" else 1), "last": str(START + timedelta(days=number))}

    def probability(self, model):
        """What the model that another night made says about this night's held-out rows."""
        if model.kind == "diverged":
            return np.full(len(self.labels), np.nan)
        if model.kind == "saturated":
            return np.full(len(self.labels), 1.0)
        known = self.known
        if model.kind == "all labels shuffled":
            return 0.5 + 0.01 * np.random.default_rng(99).normal(size=len(known))
        if model.kind == "shuffled labels":
            known = np.random.default_rng(99).permutation(known)
        return 1 / (1 + np.exp(-(1 + model.number / 10) * known))  # good nights become better

    def decision(self, publish_if, current):
        new = self.probability(self)
        return decide(
            publish_if,
            self.data,
            current.data if current else None,
            lambda: compared(new, self.probability(current), self.labels, 200, 0.5),
            usable=bool(np.isfinite(new).all()),
        )


BAD = {
    3: "shuffled labels", 7: "half the data", 11: "diverged", 12: "saturated", 18: "all labels shuffled",
}  # fmt: skip


@pytest.mark.parametrize("publish_if", ["better", "not_worse"])
def test_of_twenty_nights_no_bad_one_is_published_and_each_has_its_reason(publish_if):
    current, reasons, published = None, {}, []
    for number in range(20):
        night = Night(number, BAD.get(number, "good"))
        decision = night.decision(publish_if, current)
        reasons[number] = decision.reason
        if decision.publish:
            current = night
            published.append(number)
    assert not set(published) & set(BAD)
    assert published[0] == 0 and len(published) >= (3 if publish_if == "better" else 15)
    assert reasons[0] == "there was no model under the key"
    for number in (3, 12):
        assert reasons[number].startswith("worse: log-loss ")
    assert reasons[18].startswith("the model says no more than the share of buys does: ")
    assert reasons[7].startswith("the history has 50,000 rows, and that of the model under the key 100,000")
    assert reasons[11] == "the model's probabilities are not numbers: the training diverged"


def test_always_looks_at_nothing():
    assert decide("always", DATA, DATA, never, usable=False).publish


def test_a_first_model_is_published_unless_it_diverged():
    assert decide("better", DATA, None, never, usable=True).publish
    assert not decide("better", DATA, None, never, usable=False).publish


def test_prices_that_end_earlier_are_refused():
    decision = decide("not_worse", DATA, DATA | {"last": str(START + timedelta(days=1))}, never, usable=True)
    assert not decision.publish
    assert "the history ends at 2026-01-01 00:00:00" in decision.reason


def test_a_record_that_says_nothing_of_the_prices_forbids_nothing():
    night = Night(1)
    compare = lambda: compared(night.probability(night), night.probability(night), night.labels, 200, 0.5)  # noqa: E731
    assert decide("not_worse", DATA, {"rows": None, "last": None}, compare, usable=True).publish
    decision = decide("better", DATA, {}, compare, usable=True)
    assert not decision.publish
    assert decision.reason.startswith("not worse, and not shown to be better: log-loss ")


def test_a_model_that_cannot_be_compared_with_is_not_replaced():
    def broken():
        raise OSError("no HDF5 file")

    decision = decide("not_worse", DATA, {}, broken, usable=True)
    assert decision == (False, "the model under the key cannot be compared with: OSError: no HDF5 file")
