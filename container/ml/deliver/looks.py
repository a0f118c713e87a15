"""How often a test part was looked at: what is chosen after a look is no longer judged by rows that no choice saw.

A look is recorded in a folder that the launcher keeps for all its jobs, and in KYDB beside the versions of the model.
Neither can cost a job its result: what refuses to record is told.
"""

import hashlib
import json
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ml.databases import connect, unpickled
from ml.errors import one_line, redacted
from ml.items import item_now, swap
from ml.log import say

if TYPE_CHECKING:
    import pandas as pd

TUNED_FOR = "_tuning_objective_metric"  # a hyperparameter that searches give their trials, SageMaker's too

_ATTEMPTS = 5  # to write a record that other jobs write at the same time
_MOST_PARTS = 1000  # in a record in KYDB: about three years of nights
_JOBS_NAMED = 3


class Look(TypedDict):
    """What metrics.json says of a look at a test part.

    Attributes:
        test_part: what tells the part from others: a hash of its times, prices and instruments.
        looks: how many there were, this one included; None: nobody counts them.
        look: that in a sentence.
    """

    test_part: str
    looks: int | None
    look: str


def count_look(
    rows: "pd.DataFrame", looker: str, folder: Path | None, url: str, model_key: str, timeout: float
) -> Look:
    """Records that the rows of a test part are looked at, and says how often they were.

    Args:
        rows: of the test part: mid, and symbol where there are several instruments, indexed by time.
        looker: who looks, as `looker_of` names it; one who looks again is counted once.
        folder: the launcher's; None: there is none.
        url: of the KYDB that the model is published to; empty: there is none.
        model_key: its key there.
        timeout: seconds without a byte after which a connection counts as dead.
    """
    part, lookers = _hash_of(rows), set[str]()
    places = {
        str(folder): lambda: _lookers_in_folder(folder, part, looker) if folder else [],
        redacted(url): lambda: _lookers_in_kydb(url, model_key, part, looker, timeout) if url else [],
    }
    for where, recorded in places.items():
        try:
            lookers.update(recorded())
        except Exception as error:  # each kind of database has its own
            say(f"the look at the test part is not recorded in {where}: {one_line(error)}")
    others = sorted(lookers - {looker})
    return {"test_part": part, "looks": len(lookers) or None, "look": _sentence(bool(lookers), others)}


def looker_of(job: str, hyperparameters: Collection[str]) -> str:
    """Who a job's look is counted for: the job, or the tuning job that it is a trial of.

    Trials are chosen by their validation metrics, so that a tuning job looks at the test part once, with its best.
    """
    name = re.sub(r"[^A-Za-z0-9.-]", "-", job)[:100]
    return re.sub(r"-\d{3,}(-[0-9a-f]{8})?$", "", name) if TUNED_FOR in hyperparameters else name


def _hash_of(rows: "pd.DataFrame") -> str:
    import pandas as pd

    known = rows[["mid"]].astype("float64")
    if "symbol" in rows:
        known["symbol"] = rows["symbol"].astype(str)
    return hashlib.sha256(pd.util.hash_pandas_object(known).to_numpy().tobytes()).hexdigest()[:32]


def _lookers_in_folder(folder: Path, part: str, looker: str) -> list[str]:
    """Those who looked, by a file each: making one needs no lock, whoever else makes another."""
    (folder / part).mkdir(exist_ok=True)
    (folder / part / looker).touch()
    return [path.name for path in (folder / part).iterdir()]


def _lookers_in_kydb(url: str, model_key: str, part: str, looker: str, timeout: float) -> list[str]:
    """Those who looked, by one item for all test parts of a model key, the last one looked at last.

    Raises:
        Exception: KYDB does not answer, or the item is damaged.
    """
    db: Any = connect(url, timeout)
    while hasattr(db, "dbs") or hasattr(db, "persist_db"):  # a union writes into its first, a cache into what it caches
        db = db.dbs[0] if hasattr(db, "dbs") else db.persist_db
    key = looks_key(model_key)
    for _ in range(_ATTEMPTS):
        before = item_now(db, key)
        found: dict[str, list[str]] = json.loads(unpickled(db, key, before)) if before else {}
        lookers = found.pop(part, [])
        if looker in lookers:
            return lookers
        kept = dict(list(found.items())[1 - _MOST_PARTS :]) | {part: [*lookers, looker]}
        if swap(db, key, before, pickle.dumps(json.dumps(kept))):
            return kept[part]
    raise OSError("other jobs wrote their looks all the while")


def looks_key(model_key: str) -> str:
    """The KYDB key of the looks: beside the folder with the model's versions."""
    return f"/model_versions/{model_key.strip('/')}.looks"


def _sentence(counted: bool, others: list[str]) -> str:
    if not counted:
        return (
            "Looks at this test part are not counted: no launcher started the job, and it has no model_db that counts."
        )
    if not others:
        return "This is the first look at this test part."
    number = len(others) + 1
    named = others[:_JOBS_NAMED] + ([f"{len(others) - _JOBS_NAMED} more"] if len(others) > _JOBS_NAMED else [])
    after = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    return (
        f"This is the {_ordinal(number)} look at this test part, after {after}: what was chosen after seeing it "
        "flatters the model."
    )


def _ordinal(number: int) -> str:
    """A number as a place.

    >>> [_ordinal(number) for number in (2, 3, 11, 22)]
    ['2nd', '3rd', '11th', '22nd']
    """
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
