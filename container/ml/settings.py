"""Every hyperparameter, declared once.

`ml.hyperparameters` reads them from text, for the job and for the launcher; the table in the docs is printed from here
(`python -m ml.settings`).
"""

import dataclasses
import operator
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any


@dataclasses.dataclass(frozen=True)
class Interval:
    """A range of numbers, written the way people write it: `[0, 1)`."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(bound) for bound in self.text[1:-1].split(","))
        above = operator.ge if self.text[0] == "[" else operator.gt
        below = operator.le if self.text[-1] == "]" else operator.lt
        return above(value, low) and below(value, high)

    def __str__(self) -> str:
        return self.text


def _setting(
    default: Any,
    text: str,
    *,
    interval: str | None = None,
    choices: tuple[str, ...] = (),
    scaling: str | None = None,
    changes_weights: "bool | Callable[[Settings], bool]" = True,
) -> Any:
    """A field of `Settings`: its default, its sentence for the user, and what it may be.

    Args:
        default: where neither the user nor a preset gives another.
        text: the sentence.
        interval: of a number, as `Interval` writes it.
        choices: of a text.
        scaling: SageMaker's ScalingType for a tuning range over it; None: it makes no sense to tune.
        changes_weights: whether another value trains other weights on the same labelled prices: a checkpoint of
            the one is then refused by a job of the other. A function says it of a job's settings. False for what
            changes only the prices or their labels, since checkpoints hold the hash of those as well.
    """
    metadata = {
        "help": text,
        "changes_weights": changes_weights,
        "interval": Interval(interval) if interval else None,
        "choices": choices,
        "scaling": scaling,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _same_rows(settings: "Settings") -> bool:
    """Whether the rows are those of another lookback than the job's own."""
    return bool(settings.longest_lookback)


def _cosine(settings: "Settings") -> bool:
    """Whether the learning rate falls as a cosine, which depends on how many epochs it falls in."""
    return settings.schedule == "cosine"


# What the networks of a population may differ in: settings that leave the loop over steps as it is.
VARIED = (
    "lookback",
    "nodes",
    "dropout",
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "warmup_steps",
    "seed",
)

MAX_GAP = "4d"  # a weekend or a night is bridged, a hole of weeks is not

# Values by the name of a preset, for the settings that a job does not give.
PRESETS = {
    "default": {},
    "original": {  # the job that this project began with
        "lookback": 1440,
        "nodes": 1024,
        "layers": 2,
        "dropout": 0.2,
        "epochs": 10,
        "batch_size": 4096,
        "centred": False,
        "learning_rate": 0.001,
        "warmup_steps": 50,
        "schedule": "constant",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "optimizer": "adam",
        "monitor": "val_loss",
        "patience": 0,
        "test_fraction": 0.0,
    },
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyperparameters of a job, parsed and checked; build it with `parse_settings`."""

    # Defaults are what did best on real prices before 2020 (`make research`).
    preset: str = _setting(
        "default", "named values for the settings that are not given", choices=tuple(PRESETS), changes_weights=False
    )
    # The windows and the labels
    lookback: int = _setting(
        240,
        "prices in a window, the predicted minute included",
        interval="[2, 100000]",
        scaling="Logarithmic",
    )
    longest_lookback: int = _setting(
        0,
        "use the rows as if lookback were this, so that models of several lookbacks are trained and judged on the same "
        "rows; 0: as lookback says",
        interval="[0, 100000]",
        changes_weights=_same_rows,
    )
    horizon: int = _setting(
        300,
        "minutes that an optimal position looks ahead; part of the purge before the validation and the test rows",
        interval="[3, 100000]",
    )
    max_gap: str = _setting(
        MAX_GAP,
        "longest time between two bars of one segment, such as 30min, 12h or 4d, which no window and no label crosses; "
        "off: any",
    )
    spread: float = _setting(
        0.0, "ask minus bid, in price units, where the history has only mid", interval="[0, inf)", changes_weights=False
    )
    # The network
    nodes: int = _setting(128, "units in a hidden layer", interval="[1, 65536]", scaling="Logarithmic")
    layers: int = _setting(2, "hidden layers", interval="[1, 32]", scaling="Linear")
    dropout: float = _setting(0.2, "share of hidden units dropped in training", interval="[0, 1)", scaling="Linear")
    centred: bool = _setting(
        True, "subtract one half from the inputs, which then lie around 0; learns faster and overfits faster"
    )
    # The training
    epochs: int = _setting(
        5, "passes over the training windows", interval="[1, 100000]", scaling="Linear", changes_weights=_cosine
    )
    batch_size: int = _setting(
        1024, "windows in a step, over all devices", interval="[1, 1048576]", scaling="Logarithmic"
    )
    learning_rate: float = _setting(0.001, "step size of the optimizer", interval="(0, 100]", scaling="Logarithmic")
    warmup_steps: int = _setting(
        50,
        "steps in which the learning rate rises to its full size, at most half an epoch's",
        interval="[0, 1000000]",
        scaling="Linear",
    )
    schedule: str = _setting(
        "cosine",
        "the learning rate after the warm-up: constant, or a cosine that reaches 0 at the last step",
        choices=("constant", "cosine"),
        scaling="Categorical",
    )
    weight_decay: float = _setting(
        0.0,
        "share of a kernel, times the learning rate, taken off in a step; 0: none (adamw: Keras' 0.004)",
        interval="[0, 100]",
        scaling="Logarithmic",
    )
    label_smoothing: float = _setting(
        0.0,
        "how far training pulls the labels 0 and 1 towards one half; 1 would be all the way",
        interval="[0, 1)",
        scaling="Linear",
    )
    train_on: str = _setting(
        "all",
        "windows whose loss counts in training: all, or decided, those that end on a bar whose optimal position is "
        "certain there and not carried on from an earlier bar",
        choices=("all", "decided"),
        scaling="Categorical",
        changes_weights=lambda settings: settings.train_on != "all",  # earlier checkpoints know nothing of it
    )
    optimizer: str = _setting(
        "adam", "update rule", choices=("adam", "adamw", "nadam", "rmsprop", "sgd"), scaling="Categorical"
    )
    seed: int = _setting(
        1, "of the initial weights, the shuffle and the dropout", interval="[0, 2147483647]", scaling="Linear"
    )
    validation_fraction: float = _setting(
        0.1,
        "share of the rows, the last ones before the test part, that choose the epoch and the settings; 0 switches "
        "validation off",
        interval="[0, 1)",
    )
    test_fraction: float = _setting(
        0.1,
        "share of the rows, the last ones, that no choice sees: the verdict, the report and publish_if are of them; 0: "
        "they are of the validation rows",
        interval="[0, 1)",
    )
    folds: int = _setting(
        1,
        "stretches of validation_fraction before the test part that are validated in turn, each by a model of its own "
        "trained on what came before; the last one's is kept",
        interval="[1, 100]",
        changes_weights=False,
    )
    monitor: str = _setting(
        "val_loss",
        "validation metric that chooses the epoch whose weights are kept; last: no choice, the last epoch's are",
        choices=("val_loss", "val_accuracy", "last"),
    )
    patience: int = _setting(
        0,
        "epochs without a better monitored metric before training stops; 0: train to the last epoch",
        interval="[0, 100000]",
        changes_weights=False,
    )
    refit: bool = _setting(
        False,
        "once the model is measured, train its settings and number of epochs again on every row, and keep and publish "
        "that model, which nothing measures",
        changes_weights=False,
    )
    precision: str = _setting(
        "auto",
        "of the multiplications; auto takes what the hardware multiplies fastest",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    # The population
    population: int = _setting(
        1,
        "networks trained at once, the best of which is kept; their settings are drawn from ranges",
        interval="[1, 1024]",
        changes_weights=False,
    )
    ranges: str = _setting(
        "",
        "what the networks of a population differ in, as SageMaker's ParameterRanges in JSON; any of "
        f"{', '.join(VARIED)}",
        changes_weights=False,
    )
    points: str = _setting(
        "",
        "in place of population and ranges: the settings of each network, a JSON list of objects of name and value",
        changes_weights=False,
    )
    halving: float = _setting(
        1.0,
        "after each of the first epochs keep the best 1/halving of a population and train on with those; 1: all",
        interval="[1, 1024]",
        changes_weights=False,
    )
    # The data
    prices_db: str = _setting("", "KYDB URL of the price history; empty: read the channel", changes_weights=False)
    prices_key: str = _setting(
        "/symbols/ml/training_data/FX_BTC_JPY",
        "KYDB key of the price history; of several instruments with commas between them, or a pattern such as "
        "/symbols/ml/training_data/*",
        changes_weights=False,
    )
    prices_channel: str = _setting(
        "train",
        "channel with CSV, Parquet, Feather or JSON files, read where prices_db is empty",
        changes_weights=False,
    )
    time_column: str = _setting(
        "",
        "column of the times in the channel's files: a name, or a number from 1; of a day and a time of day: "
        "Date+Time; empty: found by its name",
        changes_weights=False,
    )
    price_column: str = _setting(
        "",
        "column of the price: a name, or a number from 1; empty: mid, bid and ask, or the close, found by their names",
        changes_weights=False,
    )
    bid_column: str = _setting(
        "", "column of the bid, with ask_column; empty: as price_column says", changes_weights=False
    )
    ask_column: str = _setting(
        "", "column of the ask, with bid_column; empty: as price_column says", changes_weights=False
    )
    time_format: str = _setting(
        "",
        "how the times are written, such as %d/%m/%Y %H:%M, or s, ms, us, ns since 1970; empty: found out",
        changes_weights=False,
    )
    timezone: str = _setting(
        "UTC",
        "zone of times that are written without one, such as Europe/Berlin or Etc/GMT+5 (5 hours west)",
        changes_weights=False,
    )
    resample: str = _setting(
        "",
        "puts rows (trades, say) into bars of this length by their last price: 1min, 30s, 1h; empty: a row is a bar",
        changes_weights=False,
    )
    start_date: datetime | None = _setting(
        None,
        "first day or time used (UTC), or a day before the job's: -90d, -2w, -6m, -3y; empty: the first there is",
        changes_weights=False,
    )
    end_date: datetime | None = _setting(
        None,
        "last day or time used, included (UTC), or a day before the job's, as above; empty: the last there is",
        changes_weights=False,
    )
    # The results
    fee: float = _setting(
        0.0,
        "share of the traded price that each unit traded costs beside half the spread; 0.0005 is 0.05 %",
        interval="[0, 1)",
        changes_weights=False,
    )
    threshold: float = _setting(
        0.0,
        "when following predictions, keep the position while the probability of buy is this near to 0.5",
        interval="[0, 0.5)",
        scaling="Linear",
        changes_weights=False,
    )
    model_db: str = _setting("", "KYDB URL that the model is published to; empty: model/ only", changes_weights=False)
    model_key: str = _setting(
        "/ml/models/fx_btc_jpy_model.h5",
        "KYDB key of the model; its last part names the .h5 file in model/ too",
        changes_weights=False,
    )
    replace_lookback: bool = _setting(
        False,
        "publish over a model that takes another number of prices, which the key's readers must know",
        changes_weights=False,
    )
    publish_if: str = _setting(
        "always",
        "whether to publish: always, or where the test rows show the model better, or not worse, than the one that "
        "is under the key",
        choices=("always", "not_worse", "better"),
        changes_weights=False,
    )
    # The run
    checkpoint_seconds: int = _setting(
        60,
        "seconds between checkpoints, where the job has a checkpoints folder; also one an epoch, and never more "
        "than 1 % of the time",
        interval="[1, 86400]",
        changes_weights=False,
    )
    read_seconds: int = _setting(
        60,
        "seconds to keep trying where KYDB does not answer before the training",
        interval="[0, 86400]",
        changes_weights=False,
    )
    publish_seconds: int = _setting(
        300, "seconds to keep trying where KYDB refuses the model", interval="[0, 86400]", changes_weights=False
    )
    kydb_timeout: int = _setting(
        20,
        "seconds without a byte after which a connection to KYDB counts as dead",
        interval="[1, 3600]",
        changes_weights=False,
    )
    hosts_seconds: int = _setting(
        600,
        "seconds to wait until the job's hosts have found each other, where it has several",
        interval="[1, 86400]",
        changes_weights=False,
    )
    tensorboard: bool = _setting(True, "write TensorBoard logs to output/tensorboard", changes_weights=False)
    allow_cpu: bool = _setting(
        False, "train on the CPU of an instance whose GPU TensorFlow cannot use", changes_weights=False
    )

    def changing_weights(self) -> dict[str, Any]:
        """The settings that decide what weights come out of the same labelled prices, by name."""
        found = {}
        for field in dataclasses.fields(self):
            changes = field.metadata["changes_weights"]
            if changes(self) if callable(changes) else changes:
                found[field.name] = getattr(self, field.name)
        return found

    @property
    def rows_lookback(self) -> int:
        """The lookback that says which rows are trained and judged on."""
        return max(self.lookback, self.longest_lookback)

    @property
    def weights(self) -> int:
        """Trainable weights of the network, 4 bytes each in its files."""
        between = (self.layers - 1) * (self.nodes + 1) * self.nodes
        return (self.lookback + 1) * self.nodes + between + (self.nodes + 1) * 2

    @property
    def h5_name(self) -> str:
        """Name of the .h5 file in model/: the last part of model_key."""
        name = PurePosixPath(self.model_key).name
        return name if name.endswith(".h5") else f"{name}.h5"


SETTINGS = {field.name: field for field in dataclasses.fields(Settings)}


def settings_table() -> str:
    """The settings as a Markdown table: name, default, the other presets' values that differ, range, meaning."""
    others = list(PRESETS.values())[1:]
    columns = ["name", *PRESETS, "range", "meaning"]
    rows = [columns, ["---"] * len(columns)]
    for name, field in SETTINGS.items():
        allowed = field.metadata["interval"] or ", ".join(field.metadata["choices"])
        if isinstance(field.default, bool):
            allowed = "true, false"
        different = [None if preset.get(name, field.default) == field.default else preset[name] for preset in others]
        rows.append([name, *map(_written, [field.default, *different]), allowed, field.metadata["help"]])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _written(value) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(settings_table())
