"""Sixty-four members of a population against sixty-four jobs of their own: losses epoch by epoch, and the winner.

    python tests/tools/population_of_64.py       a few minutes on two cores

Every setting that members may differ in differs, the number of nodes and the lookback among them. Small data, float32.
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "container"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))

import numpy as np

from ml.learn.members import best_first, members_of
from small_populations import fit_population
from trainings import REGULARISED, fit, hide_gpus, without_speed

MEMBERS = 64
INTEGER = {"lookback": (2, 20), "nodes": (1, 16), "warmup_steps": (0, 20), "seed": (1, 8)}
CONTINUOUS = {
    "dropout": (0, 0.6),
    "learning_rate": (0.001, 0.03),
    "weight_decay": (0, 0.2),
    "label_smoothing": (0, 0.2),
}


def ranges() -> str:
    kinds = {"IntegerParameterRanges": INTEGER, "ContinuousParameterRanges": CONTINUOUS}
    return json.dumps(
        {
            kind: [{"Name": name, "MinValue": str(low), "MaxValue": str(high)} for name, (low, high) in bounds.items()]
            for kind, bounds in kinds.items()
        }
    )


def main() -> None:
    hide_gpus()
    members = members_of(dataclasses.replace(REGULARISED, population=MEMBERS, ranges=ranges()))
    _, results, _ = fit_population(members)
    largest, best = 0.0, []
    for result in results:
        own = fit(result.member.settings)[1]
        mine, theirs = (
            np.array([list(metrics.values()) for metrics in without_speed(each.history)]) for each in (result, own)
        )
        largest = max(largest, float(np.abs(mine - theirs).max()))
        best.append(own.history[own.best_epoch - 1]["val_loss"])
        print(f"member {result.member.number}: {np.abs(mine - theirs).max():.2g} apart at most", flush=True)
    winner, expected = best_first(results, "val_loss")[0].member.number, int(np.argmin(best))
    print(f"{MEMBERS} members: at most {largest:.2g} apart; best {winner}, of jobs of their own {expected}")


if __name__ == "__main__":
    main()
