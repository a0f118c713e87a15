"""The commands about price files: what a job would understand of them, and how they get into KYDB."""

import time
from pathlib import Path
from typing import Any

import click

from check_prices import INSTRUMENTS_SHOWN, lines_of, look_at_prices, plain_values, read_prices, write_picture
from console import print_json, remark, say
from ml.errors import UserError, one_line, redacted
from ml.hyperparameters import parse_settings, parse_value
from options import json_option, parse_pairs

_SECONDS_BETWEEN_LINES = 5.0

_files_argument = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
_settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    callback=parse_pairs,
    metavar="NAME=VALUE",
    help="A hyperparameter of the job, such as timezone, time_column or price_column. Repeatable.",
)


def add_price_commands(main: click.Group) -> None:
    """Adds the commands to the launcher's."""
    for command in (check_files, import_files):
        main.add_command(command)


@click.command("check")
@_files_argument
@_settings_option
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the prices: .png or .svg."
)
@json_option
def check_files(files: tuple[Path, ...], settings: dict[str, str], picture: Path | None, as_json: bool) -> None:
    """Show what a job would understand of price files, and what is wrong with them.

    FILEs and folders are read together, as the channel of a job. Ends with exit code 1 where a job with these
    settings would refuse them.
    """
    if picture and picture.suffix not in (".png", ".svg"):
        raise UserError(f"--picture must end in .png or .svg, received {picture}")
    findings = look_at_prices(files, parse_settings(settings))
    if picture:
        _, first = findings.histories[0]
        write_picture(first.frame, _title(files), picture)
    if as_json:
        print_json(plain_values(findings))
    else:
        for name, history in findings.histories[:INSTRUMENTS_SHOWN]:
            say(f"read{name and f' {name}'}: {history.understood}\n")
            say("\n".join([*lines_of(history.frame), ""]))
        if len(findings.histories) > INSTRUMENTS_SHOWN:
            say(f"and {len(findings.histories) - INSTRUMENTS_SHOWN:,} instruments more\n")
        for line in findings.lines:
            say(line)
        for name in findings.histories[0][1].understood.left_out:
            say(f"left out: {name}")
        if picture:
            say(f"picture: {picture}")
    if findings.problem:
        raise UserError(f"a job with these settings would refuse them: {findings.problem}")


def _title(files: tuple[Path, ...]) -> str:
    first, *others = files
    name = first.resolve().name
    return (name if len(name) <= 40 else f"{name[:37]}...") + (f" and {len(others):,} more" if others else "")


@click.command("import")
@_files_argument
@click.option("--to", "url", required=True, metavar="URL", help="KYDB URL, such as dynamodb://TABLE/FOLDER.")
@click.option("--key", required=True, help="KYDB key of the price history.")
@click.option("--append", "how", flag_value="append", help="Add rows after the last one of a history that is there.")
@click.option(
    "--replace", "how", flag_value="replace", help="Replace its rows from the files' first time to their last."
)
@_settings_option
@json_option
def import_files(
    files: tuple[Path, ...], url: str, key: str, how: str | None, settings: dict[str, str], as_json: bool
) -> None:
    """Write price files into KYDB, as the price history that prices_db and prices_key name.

    FILEs and folders are read together, as the channel of a job: `check` shows how. Where the key holds a history
    already, --append or --replace says what becomes of it; other rows stay.
    """
    try:
        url, key = parse_value("prices_db", url), parse_value("prices_key", key)
    except UserError as error:
        message = str(error).replace("hyperparameter prices_db", "--to").replace("hyperparameter prices_key", "--key")
        raise UserError(message) from None
    (name, history), *others = read_prices(files, parse_settings(settings))
    if others:
        names = ", ".join([name, *(other for other, _ in others)][:INSTRUMENTS_SHOWN])
        raise UserError(f"the files hold {1 + len(others):,} instruments ({names}); import each under a key of its own")
    remark(f"read: {history.understood}")
    written = _write(history.frame, url, key, how) | {
        "Rows": len(history.frame),
        "First": str(history.frame.index[0]),
        "Last": str(history.frame.index[-1]),
    }
    if as_json:
        print_json(written)
    else:
        say(
            f"wrote {len(history.frame):,} rows from {written['First']} to {written['Last']} to {written['PricesKey']} "
            f"in {written['PricesDb']}; a job reads them with --set prices_db={url} --set prices_key={key}"
        )


def _write(frame: Any, url: str, key: str, how: str | None) -> dict[str, Any]:
    """Writes a history under a key; returns where, in the words of `import --json`.

    Raises:
        UserError: there is a history already and neither --append nor --replace was given, or KYDB refuses.
    """
    from ml.databases import connect, exists
    from ml.timeseries import time_series

    rows, began, told = 0, time.monotonic(), 0.0

    def wrote(more: int) -> None:
        nonlocal rows, told
        rows, passed = rows + more, time.monotonic() - began
        if passed - told > _SECONDS_BETWEEN_LINES:
            told = passed
            remark(f"wrote {rows:,} of {len(frame):,} rows")

    place = f"{key} in {redacted(url)}"
    try:
        db = connect(url)
        if how is None and exists(db, key):
            raise UserError(
                f"there is already something under {place}; give --append to add later rows to a price history, "
                "--replace to replace its rows from the first to the last time of the files, or another key"
            )
        series = time_series(db, key)
        series.wrote = wrote
        (series.append if how == "append" else series.replace)(frame)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{place} cannot be written: {one_line(error)}; check the URL, the network and your permissions"
        ) from error
    return {"PricesDb": url, "PricesKey": key}
