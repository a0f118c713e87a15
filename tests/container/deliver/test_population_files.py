import csv

import numpy as np
import pandas as pd
import pytest

from ml.deliver.population_files import LEADERBOARD_FILE, PREDICTIONS_FILE, write_leaderboard, write_predictions
from ml.errors import UserError

ENTRIES = [
    {
        "member": 1,
        "settings": {"learning_rate": 0.001},
        "status": "Completed",
        "epochs": 5,
        "best_epoch": 3,
        "metrics": {"val_loss": 0.6931471},
    },
    {"member": 0, "settings": {"seed": 7}, "status": "Diverged", "epochs": 1, "best_epoch": None, "metrics": {}},
]


def rows_of(folder):
    with (folder / LEADERBOARD_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_leaderboard_has_a_row_a_member_and_a_column_a_setting(tmp_path):
    write_leaderboard(tmp_path, ENTRIES)
    best, other = rows_of(tmp_path)
    assert best | {"rank": "1"} == best and (best["member"], best["status"], best["best_epoch"]) == (
        "1",
        "Completed",
        "3",
    )
    assert (best["learning_rate"], best["seed"], best["val_loss"]) == ("0.001", "", "0.693147")
    assert (other["member"], other["learning_rate"], other["seed"], other["val_loss"]) == ("0", "", "7", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(tmp_path, text):
    write_leaderboard(tmp_path, [ENTRIES[0] | {"settings": {text: text}, "status": text}])
    with (tmp_path / LEADERBOARD_FILE).open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert cells.count(f"'{text}") == 3 and text not in cells


@pytest.mark.parametrize("universe", [False, True])
def test_every_members_predictions_are_on_the_same_rows(tmp_path, universe):
    index = pd.date_range("2020-01-01", periods=6, freq="min", tz="UTC")
    held_out = pd.DataFrame({"mid": np.arange(6.0)}, index=index)
    if universe:
        held_out["symbol"] = ["A"] * 3 + ["B"] * 3
    probabilities = np.array([[0.1, np.nan], [0.2, np.nan], [0.3, np.nan]], np.float32)
    write_predictions(tmp_path, held_out, np.array([1, 2, 5]), [4, 9], probabilities)
    found = pd.read_parquet(tmp_path / PREDICTIONS_FILE)
    assert list(found) == ["member", "time", *(["symbol"] if universe else []), "probability"]
    assert found["probability"].dtype == np.float32 and found["member"].tolist() == [4] * 3 + [9] * 3
    assert found["time"].tolist() == index[[1, 2, 5]].tolist() * 2
    np.testing.assert_array_equal(found["probability"], probabilities.T.reshape(-1))
    if universe:
        assert found["symbol"].astype(str).tolist() == ["A", "A", "B"] * 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="leaderboard.csv cannot be written"):
        write_leaderboard(tmp_path / "file", ENTRIES)
