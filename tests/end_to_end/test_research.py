import os
import subprocess
import sys
from pathlib import Path

import research as tool

REPOSITORY = Path(__file__).resolve().parents[2]


def research(folder, *arguments):
    """What `make research` prints of a few weeks of real prices, and what it tells of its progress."""
    done = subprocess.run(
        [sys.executable, "tests/tools/research.py", "--short", "--results", folder, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": "container"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_research_prints_a_table_and_goes_on_where_it_was_cut_off(tmp_path, shared):
    table, progress = research(tmp_path, "folds", "one hidden layer")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ").partition(" of ")[0] for row in rows] == [
        "predictor",
        "one hidden layer",
        "majority",
        "last known position",
        "range rule",
        "momentum",
        "logistic regression",
        "random walk (simulated)",
    ]
    assert 0.4 < float(rows[1][1]) < 0.9 and {len(row) for row in rows} == {6}
    assert progress.count("epoch=5/5") == 4  # two candidates on two folds
    (kept := sorted(tmp_path.glob("*.npy")))[0].unlink()
    again, progress = research(tmp_path, "folds", "one hidden layer")
    assert again == table and progress.count("epoch=5/5") == 1 and sorted(tmp_path.glob("*.npy")) == kept


def test_on_walks_skill_is_found_where_it_is_planted(monkeypatch):
    monkeypatch.setattr(tool, "WALK_PARTS", (12 * 1440,) * 3)
    monkeypatch.setattr(tool, "TRIES", 8)
    lucky, skilled = (tool.walk(1, skill=skill) for skill in (False, True))
    assert not lucky.better_on_test and skilled.better_on_test
    assert lucky.luck["tries"] == 8 and lucky.luck["spa_p_value"] > skilled.luck["spa_p_value"]
    assert "is no better than chance" in lucky.last_hour
