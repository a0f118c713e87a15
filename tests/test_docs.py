"""The documentation is true: commands exist and are run by a test or say why not, links and names lead somewhere."""

import ast
import functools
import re
import shlex
from pathlib import Path

import click
import nbformat
import pytest
import yaml

from bench import CASES
from launch import main
from ml.hyperparameters import problems_with

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "sagemaker" / "Training.ipynb",
]

# The form of a command: the test that runs it, or in a sentence why none does.
COMMANDS = {
    r"launch train .*-count .*--on docker": "tests/sagemaker/place/test_hosts_in_docker.py::test_containers_find_each",
    r"launch logs .*--host": "tests/sagemaker/place/test_hosts_here.py::test_the_first_hosts_log_is_followed",
    r"launch train .*--on docker": "tests/sagemaker/place/test_docker.py::test_a_job_sees_and_leaves_the_same",
    r"launch train .*--on aws .*--dry-run": "tests/sagemaker/test_alone.py::test_requests_are_built_and_checked",
    r"launch train .*--on aws": "tests/sagemaker/place/test_aws.py::test_train_sends_the_request_uploads_the_prices",
    r"launch train --member": "tests/sagemaker/test_packs.py::test_a_member_that_is_not_its_jobs_best_has_no",
    r"launch train --help": "tests/sagemaker/test_launch.py::test_every_command_has_help",
    r"launch train": "tests/sagemaker/test_launch.py::test_a_job_runs_and_leaves_what_sagemaker_would",
    r"launch tune .*--pack": "tests/sagemaker/test_packs.py::test_a_trial_is_a_member_of_its_job",
    r"launch tune .*--in-one-job": "tests/sagemaker/place/test_aws.py::test_in_one_job_a_tuning_request_is_a",
    r"launch tune --resume": "tests/sagemaker/test_search.py::test_ctrl_c_stops_the_search_and_resume_goes_on",
    r"launch tune": "tests/sagemaker/test_search.py::test_a_search_finds_the_optimum_and_says_so_everywhere",
    r"launch (status|list|stop|logs) [A-Z]|launch list": "tests/sagemaker/test_launch.py::test_a_detached_job_is",
    r"launch (best|publish --best)": "tests/sagemaker/test_search.py::test_a_search_finds_the_optimum_and_says_so",
    r"launch setup --delete": "tests/sagemaker/account/test_setup.py::test_delete_takes_away_what_is_empty",
    r"launch setup": "tests/sagemaker/account/test_setup.py::test_setup_makes_what_a_job_needs",
    r"launch check": "tests/sagemaker/test_check_prices.py::test_check_tells_what_a_job_would_understand",
    r"launch import .*--append": "tests/sagemaker/test_import_prices.py::test_later_rows_are_appended",
    r"launch import": "tests/sagemaker/test_import_prices.py::test_files_become_the_price_history_that_a_job_reads",
    r"launch predict": "tests/sagemaker/test_predict.py::test_every_form_of_a_model_takes_the_same_positions",
    r"launch publish .*tar": "tests/sagemaker/test_predict.py::test_a_folder_or_an_archive_is_published",
    r"launch push": "tests/sagemaker/place/test_aws.py::test_push_makes_the_repository_logs_in_and_pushes",
    r"launch doctor": "tests/sagemaker/account/test_doctor.py::test_the_command_prints_a_line_for_each_look",
    r"launch schedule": "tests/sagemaker/account/test_schedule.py::test_a_schedule_is_listed_replaced_paused",
    r"launch clean": "tests/sagemaker/account/test_clean.py::test_deleting_from_the_bucket_takes_whole_prefixes",
    r"make train": "tests/sagemaker/test_launch.py::test_the_real_job_on_the_simulated_market",
    r"make image ACCELERATOR=gpu": "takes several GB of CUDA; test_image.py compares its pinned packages",
    r"make image": "tests/conftest.py::image",
    r"make licences": "tests/end_to_end/test_image.py::test_the_bill_of_materials_names_every_package",
    r"make chaos": "tests/end_to_end/test_chaos.py::test_ten_kills_of_processes_leave_the_weights",
    r"make load": "tests/end_to_end/test_load.py::test_no_model_is_read_half_and_none_is_lost",
    r"make fuzz": "tests/end_to_end/test_fuzz.py::test_broken_input_is_told_or_understood",
    r"make research": "tests/end_to_end/test_research.py::test_research_prints_a_table_and_goes_on",
    r"make docs": "tests/container/test_settings.py::test_the_documented_table_is_the_declarations",
    r"make (setup|test|lint|coverage|help)": "run by hand and by CI: they install packages, or run these tests",
    r"docker run --rm .*--user": "tests/end_to_end/test_image.py::test_it_runs_read_only_as_any_user",
    r"docker run --rm": "tests/end_to_end/test_image.py::test_hyperparameters_and_a_channel_are_enough",
    r"pip install (-e )?\./container": "tests/container/test_install.py::",
    r"aws sagemaker create-training-job": "no AWS account; test_aws.py starts the printed request by boto3",
    r"aws configure": "asks for credentials",
    r"alias ": "a name for this shell",
    r"pip install pre-commit|pre-commit install": "installs from the package index; the hooks are make lint's",
    r"\.venv/bin/(pip install jupyterlab|jupyter lab)": "opens a browser; test_notebook.py runs every cell",
    r"chromium --headless|\.venv/bin/python -c": "makes a picture that somebody has to look at",
}


def text_of(page: Path) -> str:
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return page.read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[str, str]]:
    """Name of the page and content of every fenced block in a language."""
    return [
        (page.name, content)
        for page in PAGES
        for content in re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    ]


def command_lines() -> list[str]:
    """Every command that a page tells to type, the launcher's as `launch ...`."""
    found = set()
    for _, content in blocks("bash"):
        for line in content.replace("\\\n", " ").splitlines():
            for command in re.split(r"; (?=launch)|&&", re.sub(r"(^|\s)#.*", "", line)):
                words = " ".join(command.split())
                found.add(re.sub(r"^(\.venv/bin/)?python (sagemaker/)?launch\.py", "launch", words))
    return sorted(found - {""})


LINES = command_lines()


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_run_by_a_test_or_says_why_not(line):
    form = next((form for form in COMMANDS if re.match(form, line)), None)
    assert form, f"name in COMMANDS the test that runs it, or why none does: {line}"
    path, _, name = COMMANDS[form].partition("::")
    if path.startswith("tests/"):
        assert f"def {name}" in (REPOSITORY / path).read_text(encoding="utf-8")


def test_every_form_of_a_command_is_in_the_documentation():
    used = {next((form for form in COMMANDS if re.match(form, line)), None) for line in LINES}
    assert set(COMMANDS) <= used


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("launch ")])
def test_a_launchers_command_line_is_understood(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # away from a settings file
    arguments = shlex.split(line.split(" > ")[0])[1:]
    if "--help" in arguments:
        arguments.remove("--help")
    command, context = main, None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, arguments, parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest:  # a group that does something by itself, as `schedule` does
            break
        _, command, arguments = command.resolve_command(context, rest)
    else:
        context = command.make_context(command.name, arguments, parent=context)
    _, problems = problems_with(context.params.get("settings") or {})
    assert not problems


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_a_make_target_exists_and_takes_what_it_is_given(line):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    _, target, *variables = shlex.split(line)
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for variable in variables:
        assert f"$({variable.partition('=')[0]})" in makefile


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_benchmark_that_is_named_exists(page):
    for names in re.findall(r"make bench ARGS=(\w+)|bench\.py (\w+)|`(\w+)` in `make bench`", text_of(page)):
        assert "".join(names) in CASES


def test_every_command_of_the_launcher_is_documented():
    page = text_of(REPOSITORY / "docs" / "launcher.md")
    assert not [name for name in main.commands if f"`{name}`" not in page]


def test_yaml_examples_are_yaml():
    for _, content in blocks("yaml"):
        assert isinstance(yaml.safe_load(content), dict)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = text_of(page)
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for target in ("".join(pair) for pair in targets):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:container|sagemaker|tests|docs)/[\w./-]+)`", text_of(page)):
        assert (REPOSITORY / name).exists(), name


@functools.cache
def definitions(module: str) -> set[str] | None:
    """What a module of the project defines, methods as Class.method; None: there is no such module."""
    path = module.replace(".", "/")
    candidates = [
        REPOSITORY / side / f"{path}{end}" for side in ("container", "sagemaker") for end in (".py", "/__init__.py")
    ]
    source = next((candidate for candidate in candidates if candidate.is_file()), None)
    if source is None:
        return None
    found = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{each.name}" for each in getattr(node, "body", ()) if hasattr(each, "name")}
        for target in [*getattr(node, "targets", ()), getattr(node, "target", None)]:
            found.add(getattr(target, "id", ""))
    return found


def is_defined(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        found = definitions(".".join(parts[:count]))
        if found is not None:
            return count == len(parts) or ".".join(parts[count:]) in found
    return False


@pytest.mark.parametrize(("page", "example"), blocks("python"))
def test_what_an_example_imports_exists(page, example):
    imports = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{each.name}" for node in imports for each in node.names]
    assert all(map(is_defined, (name for name in names if name.startswith("ml.")))), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_that_is_named_exists(page):
    names = re.findall(r"`((?:ml|train|build|rules|place|account)(?:\.[A-Za-z_]\w*)+)`", text_of(page))
    missing = [name for name in names if not name.endswith(".py") and not is_defined(name)]
    assert not missing


def test_the_front_page_is_short():
    assert len(text_of(REPOSITORY / "README.md").splitlines()) <= 150
