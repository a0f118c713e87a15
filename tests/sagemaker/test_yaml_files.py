"""Requests as YAML: read within bounds, written so that every reader finds the same."""

import json
import os
import shutil
import subprocess
import uuid
import venv

import pytest
import yaml
from click.testing import CliRunner

from launch import main
from launching import ACCOUNT, REGION
from ml.errors import UserError
from yaml_files import as_yaml, read_yaml

# What one version of YAML or the other takes for something else than text
ODD_TEXTS = [
    *("1e-3", "12e4567", "1E5", "0x1F", "0o7", "017", "1_000", "1:30", "+1", "-1", ".5", "5.", ".inf", ".nan", "0b1"),
    *("yes", "Yes", "NO", "on", "Off", "y", "n", "true", "False", "null", "Null", "NULL", "~", ""),
    *("2020-01-01", "2020-01-01T00:00:00Z", "<<", "=", "!tag", "&anchor", "*alias", "%percent", "@at", "`tick", "- a"),
    *(
        "a: b",
        "a #b",
        "#b",
        " blank ",
        "tab\t",
        "line\nline",
        "it's",
        'say "x"',
        "back\\slash",
        "{a}",
        "[a]",
        "---",
        "?",
    ),
    *("é", "\u202egnirts", "\u2028", "\x1b[31m", "\x85", "\U0001f600", "x" * 300, "word", "ml.c7i.4xlarge"),
]
REQUEST = {
    "TrainingJobName": "one",
    "HyperParameters": {"plain": "word"} | {f"odd{index}": text for index, text in enumerate(ODD_TEXTS)},
    "Environment": {text: "key" for text in ODD_TEXTS if text},
    "Numbers": [1, 0.5, 1e-9, True, False],
    "Tags": [{"Key": "commit", "Value": "12e4567"}] * 2,
}


def test_a_request_comes_back_as_it_was():
    assert yaml.safe_load(as_yaml(REQUEST)) == REQUEST


def test_words_stand_without_quotes():
    assert as_yaml({"Type": "Maximize", "MinValue": "1e-3"}) == 'Type: Maximize\nMinValue: "1e-3"'


def test_nothing_in_it_acts_on_a_terminal():
    assert as_yaml(REQUEST).replace("\n", "").isprintable()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
WRONG = {
    "a date that is none": ("HyperParameters: {start_date: 2020-02-30}", "'2020-02-30' in line 1: day is out of range"),
    "5,000 digits": (f"HyperParameters: {{epochs: {'9' * 5000}}}", "of type int with 5,000 characters"),
    "hexadecimal digits": (f"HyperParameters: {{epochs: 0x{'f' * 400_000}}}", "of type int with 400,002 characters"),
    "deep": ("[" * 50_000, "more than 32 levels"),
    "deep blocks": ("".join(" " * level + "a:\n" for level in range(400)), "more than 32 levels"),
    "an alias bomb": (BOMB, "more than 10,000 values"),
    "a merge bomb": (BOMB.replace("[x, x, x, x, x, x, x, x, x, x]", "{k: 1}").replace("[*", "{<<: [*").replace(
        "]\n", "]}\n"), "more than 10,000 values"),
    "an alias of itself": ("a: &a [*a]", "an alias of what it is in"),
    "many values": ("- a\n" * 120_000, "more than 10,000 values"),
    "large": ("#" * 600_000, "more than 512 KiB"),
    "a key twice": ("HyperParameters: {epochs: 1, epochs: 2}", "the key 'epochs' comes twice in one mapping, line 1"),
    "a program": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "not UTF-8": (b"a: \xe9", "'utf-8' codec can't decode"),
    "a long tag": (f"a: !{'x' * 100_000} 1", "could not determine a constructor"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("what", ["request", "settings file"])
def test_a_wrong_file_is_told_in_one_line(tmp_path, case, what):
    text, told = WRONG[case]
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    arguments = ["train", str(path)] if what == "request" else ["--settings-file", str(path), "list"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: the {what} {path} cannot be read: ")
    assert told in result.stderr
    assert len(result.stderr) < 600 + len(str(path))


@pytest.mark.parametrize("text", ["- a\n" * 9_000, "x" * 500_000, f"role: [{'a, ' * 9000}]", f"{'x' * 100_000}: 1"])
def test_a_settings_file_of_another_shape_is_told_in_a_short_line(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    result = CliRunner().invoke(main, ["--settings-file", str(tmp_path / "settings.yaml"), "list"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert len(result.stderr) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"key{number}: 1" for number in range(4_000)),
        f"? {'k' * 400_000}\n: 1",
        f"Unknown: {'v' * 400_000}",
        f"ResourceConfig: {{InstanceType: {'m' * 400_000}}}",
        f"HyperParameters: {{epochs: {'9' * 3} , nodes: '{'9' * 5000}'}}",
        f"HyperParameters: {{? {'h' * 300_000} : a}}",
        f"Tags: [{{Key: {'t' * 300_000}, Value: a}}]",
        f"InputDataConfig: [{{ChannelName: {'c' * 300_000}}}]",
        f"OutputDataConfig: {{S3OutputPath: 's3://{'b' * 300_000}'}}",
    ],
    ids=lambda text: text[:40],
)
def test_a_request_with_too_much_of_anything_is_refused_briefly(tmp_path, text):
    (tmp_path / "request.yaml").write_text(text)
    result = CliRunner().invoke(main, ["train", str(tmp_path / "request.yaml"), "--prices", __file__])
    assert result.exit_code == 1 and "nothing was started" in result.stderr
    assert result.stderr.count("\n") <= 52 and len(result.stderr) < 30_000


@pytest.mark.slow
def test_a_pipe_is_read_like_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"echo 'a: 1' > {tmp_path / 'pipe'}"])
    assert read_yaml(tmp_path / "pipe", "request") == {"a": 1}
    writer.wait()


def test_json_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "request.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": {"b": [1, "2"]}}).encode())
    assert read_yaml(tmp_path / "request.json", "request") == {"a": {"b": [1, "2"]}}


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="the request .* cannot be read: No such file or directory"):
        read_yaml(tmp_path / "none", "request")


# Other readers


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python of its own with the AWS CLI and ruamel.yaml, which reads YAML 1.2."""
    folder = tmp_path_factory.mktemp("cli")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "pip", "install", "--quiet", "awscli", "ruamel.yaml"]
    if subprocess.run(pip, capture_output=True, check=False, timeout=600).returncode:
        pytest.skip("pip installs no awscli and ruamel.yaml here (PIP_INDEX_URL)")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_yaml_1_2_reads_the_same(python):
    program = (
        "import json, sys; from ruamel.yaml import YAML; "
        "json.dump(YAML(typ='safe', pure=True).load(sys.stdin), sys.stdout)"
    )
    done = subprocess.run([python, "-c", program], input=as_yaml(REQUEST), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == REQUEST


ODD_OPTIONS = ["--set", "learning_rate=1e-3", "--tag", "commit=12e4567", "--env", "NO=yes", "--tag", "since=2020-01-01"]
REQUESTS = {"train": "create-training-job", "tune": "create-hyper-parameter-tuning-job"}


def send(tmp_path, aws, command, *, as_json, server):
    """What the AWS CLI answers to a dry run's unmodified output."""
    options = [
        "--on",
        "aws",
        *ACCOUNT,
        "--region",
        REGION,
        "--prices",
        "s3://prices/a/",
        "--name",
        f"n{uuid.uuid4().hex[:8]}",
    ]
    printed = CliRunner().invoke(main, [command, *options, *ODD_OPTIONS, "--dry-run", *["--json"] * as_json])
    (tmp_path / "request").write_text(printed.stdout)
    kind = "json" if as_json else "yaml"
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": REGION}
    call = ["sagemaker", REQUESTS[command], f"--cli-input-{kind}", f"file://{tmp_path / 'request'}"]
    return subprocess.run(
        [*aws, "--endpoint-url", server, *call], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def server():
    """Moto's SageMaker on loopback."""
    from moto.server import ThreadedMotoServer

    found = ThreadedMotoServer(port=0)
    found.start()
    yield f"http://127.0.0.1:{found.get_host_and_port()[1]}"
    found.stop()


@pytest.mark.slow
@pytest.mark.parametrize("command", REQUESTS)
def test_cli_v1_sends_the_json(tmp_path, python, server, command):
    done = send(tmp_path, [python, "-m", "awscli"], command, as_json=True, server=server)
    assert done.returncode == 0, done.stderr
    assert "JobArn" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", REQUESTS)
@pytest.mark.parametrize("as_json", [False, True])
def test_cli_v2_sends_the_yaml_and_the_json(tmp_path, server, command, as_json):
    aws = shutil.which("aws", path="/usr/bin:/usr/local/bin")
    if not aws or "aws-cli/2" not in subprocess.run([aws, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("no AWS CLI v2 in /usr/bin (Debian's package awscli)")
    done = send(tmp_path, [aws], command, as_json=as_json, server=server)
    assert done.returncode == 0, done.stderr
    assert "JobArn" in done.stdout
