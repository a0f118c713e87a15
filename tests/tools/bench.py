"""Benchmarks: one command, one table, everything measured in one run, each case in a process of its own.

    make bench                                  everything; runs/bench/bench.json and bench.png beside it
    python tests/tools/bench.py step_bfloat16 rows    some cases
    BENCH_PRICES=FOLDER python tests/tools/bench.py learning_curves     a folder with a year of real prices; an hour

Machines are noisy, so what is compared is measured in turns inside one process, and ratios are medians of
the turns' ratios. Prices are the simulated market's, so that anyone gets the same work.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bench_jobs
import bench_rivals
import bench_training

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "runs" / "bench"
# Every public function of these modules, by its name and in their order.
CASES = {
    name: function
    for module in (bench_training, bench_rivals, bench_jobs)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}


def run_case(name: str) -> dict[str, float]:
    """A case's figures, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--in-process", name],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    return f"{gpus()}{len(os.sched_getaffinity(0))} cores of {model.group(1) if model else platform.machine()}"


def gpus() -> str:
    """The cards, their driver, and the CUDA that is installed; empty where there are none."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    cards = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    try:
        cuda = importlib.metadata.version("nvidia-cuda-runtime-cu12")
    except importlib.metadata.PackageNotFoundError:
        cuda = "not installed"
    return "".join(f"{card.replace(', ', ', driver ')}, " for card in cards) + f"CUDA {cuda}, " if cards else ""


def show(results: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['machine']}, {results['date']}", title_justify="left")
    for column in ("what", "figure", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, figures in results["cases"].items():
        ordered = sorted(figures.items(), key=lambda item: not item[0].startswith(("share", "times")))
        for i, (figure, value) in enumerate(ordered):
            shown = (
                f"{value:,.4g}"
                if isinstance(value, float) and value < 1000
                else f"{value:,.0f}"
                if isinstance(value, int | float)
                else value
            )
            table.add_row((CASES[name].__doc__ or name) if i == 0 else "", figure.replace("_", " "), shown)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def draw(results: dict, path: Path) -> None:
    """Bars of windows a second in training, ours against the others, and the ceiling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = results["cases"]
    wanted = (
        ("five multiplications alone, bfloat16", "step_bfloat16", "ceiling_windows_per_second"),
        ("position-trainer, bfloat16", "step_bfloat16", "windows_per_second"),
        ("PyTorch, bfloat16 autocast", "pytorch", "torch_autocast_windows_per_second"),
        ("five multiplications alone, float32", "step_float32", "ceiling_windows_per_second"),
        ("position-trainer, float32", "step_float32", "windows_per_second"),
        ("PyTorch, float32", "pytorch", "torch_float32_windows_per_second"),
        (
            "Keras fit, timeseries_dataset_from_array",
            "other_pipelines",
            "timeseries_dataset_from_array_windows_per_second",
        ),
        ("Keras fit, windows row by row", "other_pipelines", "row_by_row_windows_per_second"),
    )
    bars = [(label, cases[name][figure]) for label, name, figure in wanted if figure in cases.get(name, {})]
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(bars) + 1.2), layout="constrained")
    labels, values = zip(*reversed(bars), strict=True)
    colours = ["#999999" if "alone" in label else "#0072B2" if "position" in label else "#E69F00" for label in labels]
    axes.barh(labels, values, color=colours)
    axes.bar_label(axes.containers[0], [f" {value:,.0f}" for value in values])
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("training windows a second (lookback 1440, 1024-1024-2, batch 4400)")
    axes.set_title(results["machine"], loc="left", fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}; there are {', '.join(CASES)}")
    if options.in_process:
        sys.path.insert(0, str(REPOSITORY / "container"))
        print(json.dumps(CASES[options.cases[0]]()))
        return
    results = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "cases": {}}
    for name in options.cases or [name for name in CASES if name not in ("learning_curves", "universe")]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results["cases"][name] = run_case(name)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, RESULTS / "bench.png")
    show(results)
    print(f"{RESULTS / 'bench.json'}\n{RESULTS / 'bench.png'}")
    sys.exit(any("failed" in figures for figures in results["cases"].values()))


if __name__ == "__main__":
    main()
