"""How much of the best trial is luck, from what trials left."""

import numpy as np
import pytest
from test_leaderboard import trial

from ml.files import write_json
from trials_luck import luck_of_trials

DAYS = [f"2020-01-{day:02d}" for day in range(1, 31)]


def leave(runs, name, **daily):
    results = np.random.default_rng(int(name[-3:])).normal(size=(2, len(DAYS)))
    whole = {"days": DAYS, "block_days": 1, "model": list(results[0]), "best_rule": list(results[1]), "rule": "a rule"}
    folder = runs / name / "model"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", {"best": {}, "best_epoch": 1, "epochs": [], "daily": whole | daily})


def luck(runs, trials, **options):
    return luck_of_trials(trials, lambda name: runs / name, maximize=True, **options)


def test_pruned_stopped_and_inherited_trials_count_and_failed_ones_do_not(tmp_path):
    trials = [trial(1), trial(2, "Stopped", 0.4), trial(3, "Failed", None), trial(4, "Stopped", 0.3)]
    for number in (1, 2):
        leave(tmp_path, f"t-{number:03d}")
    found = luck(tmp_path, trials, parents=5)
    assert (found["tries"], found["known"], found["chosen"], found["rule"]) == (8, 2, "t-001", "a rule")
    assert "6 of them left no results to use and are only counted" in found["rows"][0][2]


@pytest.mark.parametrize(
    "damage",
    [
        {"model": [0.5]},
        {"model": None},
        {"model": ["x"] * 30},
        {"days": DAYS[:5]},
        {"days": ["2020-01-01"] * 30},
        {"days": ["soon"] * 30},
        {"block_days": 0},
        {"block_days": "1"},
        {"best_rule": [None] * 30},
    ],
    ids=str,
)
def test_damaged_results_are_counted_and_not_used(tmp_path, damage):
    for number in (1, 2):
        leave(tmp_path, f"t-{number:03d}")
    leave(tmp_path, "t-004", **damage)
    found = luck(tmp_path, [trial(1), trial(2, value=0.4), trial(4, value=0.3)])
    assert (found["tries"], found["known"]) == (3, 2)
    assert luck(tmp_path, [trial(1, value=0.1), trial(4)]) == {}  # of the best one nothing is known


def test_trials_judged_on_other_days_are_only_counted(tmp_path):
    leave(tmp_path, "t-001")
    leave(tmp_path, "t-002", days=[f"2021{day[4:]}" for day in DAYS])
    leave(tmp_path, "t-004", days=[*DAYS[3:], "2020-02-01", "2020-02-02", "2020-02-03"])
    found = luck(tmp_path, [trial(1), trial(2, value=0.4), trial(4, value=0.3)])
    assert (found["tries"], found["known"], found["days"]) == (3, 2, 27)


def test_one_trial_and_a_script_without_results_have_no_luck(tmp_path):
    leave(tmp_path, "t-001")
    assert luck(tmp_path, [trial(1)]) == {} and luck(tmp_path, []) == {}
    assert luck(tmp_path, [trial(2), trial(4)]) == {}


def test_members_of_a_pack_are_tries_with_results_of_their_own(tmp_path):
    results = np.random.default_rng(5).normal(size=(2, len(DAYS))).tolist()
    leave(tmp_path, "t-001", members={"0": results[0], "2": results[1]})
    trials = [
        trial(1, value=value) | {"TrainingJobName": f"t-001-{number}", "MemberOf": "t-001", "Member": number}
        for number, value in enumerate((0.5, 0.3, 0.4))
    ]
    found = luck(tmp_path, trials)
    assert (found["tries"], found["known"], found["chosen"]) == (3, 2, "t-001-0")  # the second was pruned
    days = np.array(results[0])
    assert found["sharpe"] == pytest.approx(days.mean() / days.std() * 365.25**0.5, rel=0.05)
