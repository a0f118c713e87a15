"""Several instruments in one job: which files or keys are which instrument's."""

import concurrent.futures
import fnmatch
import itertools
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from ml.data.columns import Reading
from ml.data.formats import NO_LIMIT, Part, bounded
from ml.data.listing import Listing
from ml.data.sources import history_of, read_kydb, read_parts
from ml.data.understood import History
from ml.databases import TIMEOUT, connect, patiently
from ml.errors import UserError, one_line, redacted
from ml.log import say

_AT_ONCE = 8  # curves that are read from KYDB
_SAME = 0.5  # share of common times with the same price, above which two files are of the same instrument
_PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")


def read_instruments(
    listing: Listing,
    start=None,
    end=None,
    how: Reading | None = None,
    *,
    source: str,
    room: int = NO_LIMIT,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[str, History]]:
    """The histories in files, each with its instrument's name; the name of a single one is empty.

    Instruments are told apart by a column `symbol`; without one, where files or first-level sub-folders lie over
    each other in time with other prices, each is an instrument of its own.

    Args:
        listing: the files.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        how: what the settings say about the files; None: everything is found out.
        source: what they are called together, for messages.
        room: bytes of memory that reading may take.
        say: is told of long waits.

    Raises:
        UserError: one cannot be read, or an instrument's are no price history.
    """
    how = how or Reading()
    read = read_parts(listing, start, end, how, source=source, room=room, say=say)
    groups = instruments_of(read.parts, source)
    if len(groups) == 1:
        yield "", history_of(read.parts, read, how, source)
        return
    read.parts.clear()
    problems = []
    for name in sorted(groups):
        try:
            history = history_of(groups.pop(name), read, how, f"{source}, {name}")
        except UserError as error:
            problems.append(str(error))
            continue
        if not problems:  # else all of them are told in the end, and nothing is of use
            yield name, history
    if problems:
        raise UserError(bounded(problems))


def instruments_of(parts: list[Part], source: str) -> dict[str, list[Part]]:
    """The parts of each instrument by its name.

    Raises:
        UserError: some files have a column `symbol` and others have none, or their times lie too far apart.
    """
    filled = [part for part in parts if len(part.frame)]
    _refuse_far_apart(filled, source)
    symbols = {part.symbol for part in filled}
    if len(symbols) > 1:
        if "" in symbols:
            one, other = (next(part.name for part in filled if bool(part.symbol) is named) for named in (True, False))
            raise UserError(
                f"{source}: {one} has a column symbol and {other} has none; give every file the column, or none"
            )
        return _grouped(parts, lambda part: part.symbol)
    folders = {PurePosixPath(part.name).parts[0] for part in filled if "/" in part.name}
    if len(folders) > 1 and all("/" in part.name for part in filled):
        by_folder = _grouped(filled, lambda part: PurePosixPath(part.name).parts[0])
        # Folders such as year=2020 follow each other and are one history.
        if _differ(list(by_folder.values())):
            return by_folder
    by_file = _grouped(filled, lambda part: part.name)
    if not _differ(list(by_file.values())):
        return {"": parts}
    stems = {name: _stem(name) for name in by_file}
    unique = len(set(stems.values())) == len(stems)
    return {stems[name] if unique else name: group for name, group in by_file.items()}


def _refuse_far_apart(parts: list[Part], source: str) -> None:
    """Refuses files whose times no difference in 64 bits can tell apart."""
    if not parts:
        return
    first = min(parts, key=lambda part: part.frame.index[0])
    last = max(parts, key=lambda part: part.frame.index[-1])
    begin, end = first.frame.index[0].as_unit("ns"), last.frame.index[-1].as_unit("ns")
    if end.value - begin.value > np.iinfo(np.int64).max:
        raise UserError(
            f"{source}: times reach over more than 292 years, from {begin:%Y-%m-%d} in {first.name} to {end:%Y-%m-%d} "
            f"in {last.name}; leave out the file whose times are wrong, or mend them"
        )


def _grouped(parts: list[Part], name_of: Callable[[Part], str]) -> dict[str, list[Part]]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if len(part.frame):
            groups.setdefault(name_of(part), []).append(part)
    return groups


def _stem(name: str) -> str:
    """A file's name without folder and suffixes."""
    path = PurePosixPath(name)
    while path.suffix.lower() in _PACKINGS:
        path = path.with_suffix("")
    return path.with_suffix("").name


def _differ(groups: list[list[Part]]) -> bool:
    """Whether two groups, one beginning before the other ends, are of different instruments."""
    spans = sorted(
        (
            (min(part.frame.index[0] for part in group), max(part.frame.index[-1] for part in group), group)
            for group in groups
        ),
        key=lambda span: span[:2],
    )
    for (begin, end, one), (later, later_end, other) in itertools.pairwise(spans):
        shorter = min(end - begin, later_end - later)
        if (min(end, later_end) - later) * 2 >= shorter > pd.Timedelta(0) and not _same(one, other):
            return True
    return False


def _same(one: list[Part], other: list[Part]) -> bool:
    """Whether most prices at common times are the same."""
    first, second = (pd.concat([part.frame["mid"] for part in group]) for group in (one, other))
    first, second = (prices[~prices.index.duplicated()] for prices in (first, second))
    common = first.index.intersection(second.index)
    if not len(common):
        return False
    return float(np.mean(first.loc[common].to_numpy() == second.loc[common].to_numpy())) > _SAME


def read_curves(
    url: str,
    keys: str,
    start=None,
    end=None,
    *,
    patience: float = 0,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
    resample: str = "",
) -> Iterator[tuple[str, History]]:
    """The histories under the keys of a KYDB, each with its key's last part; the name of a single one is empty.

    Args:
        url: KYDB URL.
        keys: a key, several with commas between them, or one whose last part is a pattern with * or ?.
        start: first day or time; None: from the first row.
        end: last day or time, included; None: to the last row.
        patience: seconds to keep trying where the database does not answer.
        timeout: seconds without a byte after which a connection counts as dead.
        given_up: looked at between attempts: whether to end.
        resample: length of a bar that the last price of each is kept of, such as 1min; empty: rows are bars.

    Raises:
        UserError: every one that is missing or cannot be read.
    """

    def read(key: str) -> History:
        return read_kydb(url, key, start, end, patience=patience, timeout=timeout, given_up=given_up, resample=resample)

    found = _keys(url, keys, patience, timeout, given_up)
    if len(found) == 1:
        yield "", read(found[0])
        return
    names = {key: PurePosixPath(key).name for key in found}
    if len(set(names.values())) < len(found):
        names = {key: key for key in found}
    say(f"reading {len(found):,} curves from {redacted(url)}")
    problems = []
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        ahead, waiting = iter(found), []
        for key in itertools.islice(ahead, _AT_ONCE):
            waiting.append((key, pool.submit(read, key)))
        while waiting:  # no more than _AT_ONCE are in memory beside those that were handed on
            key, reading = waiting.pop(0)
            try:
                history = reading.result()
            except UserError as error:
                problems.append(str(error))
                history = None
            waiting.extend((key, pool.submit(read, key)) for key in itertools.islice(ahead, 1))
            if history and not problems:
                yield names[key], history
    if problems:
        raise UserError(f"{len(problems):,} of {len(found):,} curves cannot be read: {bounded(problems)}")


def is_several(keys: str) -> bool:
    """Whether a setting names several keys, or may."""
    return any(sign in keys for sign in ",*?")


def _keys(url: str, keys: str, patience: float, timeout: float, given_up: Callable[[], bool]) -> list[str]:
    """The keys that a setting means, in its order, those of a pattern sorted.

    Raises:
        UserError: there is none under a pattern.
    """
    found: list[str] = []
    for key in (each.strip() for each in keys.split(",")):
        if not is_several(key):
            found.append(key)
            continue
        folder, _, pattern = key.rpartition("/")
        try:
            db = connect(url, timeout)
            inside = patiently(
                db.ls, folder or "/", patience=patience, what=f"listing {folder} in {redacted(url)}", given_up=given_up
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the keys {key} in {redacted(url)} cannot be listed: {one_line(error)}") from None
        inside = sorted(str(name).removeprefix(f"{folder}/") for name in inside)
        matching = [name for name in inside if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            there = ", ".join(inside[:5]) or "nothing"
            raise UserError(f"no key in {redacted(url)} matches {key}; in its folder is {there}; set prices_key")
        found.extend(f"{folder}/{name}" for name in matching)
    return list(dict.fromkeys(found))
