"""What SECURITY.md says of KYDB URLs, sentence by sentence."""

import http.server
import os
import pickle
import re
import threading
from pathlib import Path

import kydb
import pandas as pd
import pytest

from job_folder import SMALL, JobFolder
from ml.data.sources import read_kydb
from ml.errors import UserError
from ml.hyperparameters import parse_settings, parse_value
from ml.settings import SETTINGS
from ml.timeseries import time_series

SECRET = "hunter2hunter2"


class Runs:
    """What a pickle can do: make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _pickles_run(tmp_path, monkeypatch):
    kydb.connect(f"files:/{tmp_path}/kydb")["/prices"] = Runs(tmp_path / "ran")
    with pytest.raises(UserError, match="without a method curve"):
        read_kydb(f"files:/{tmp_path}/kydb", "/prices")
    assert (tmp_path / "ran").exists()


def _requests_choose(tmp_path, monkeypatch):
    chosen = parse_settings({"prices_db": "s3://theirs", "model_db": "redis://theirs"})
    assert (chosen.prices_db, chosen.model_db) == ("s3://theirs", "redis://theirs")


def _allowed_kinds(tmp_path, monkeypatch):
    urls = [f"{kind}://x" for kind in ("dynamodb", "files", "redis", "s3")]
    for url in [*urls, ";".join(urls), "|".join(urls[:2])]:
        parse_value("prices_db", url)
    for url in ("s3://x;http://x", "http://x;s3://x", "redis://x|memory://x", "https://x|s3://x"):
        with pytest.raises(UserError, match="must be a KYDB of the kinds"):
            parse_value("model_db", url)


def _other_kinds(tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.timeout = 0.1
        url = f"http://127.0.0.1:{server.server_port}/x"
        asked = []
        server.verify_request = lambda *request: asked.append(request)
        job = JobFolder(tmp_path / "job", SMALL | {"prices_db": url})
        assert job.run() == 1 and "received http://..." in job.failure
        with pytest.raises(UserError, match=re.escape("received http://...")):
            parse_value("prices_db", url)  # which is the launcher's check of a request
        server.handle_request()
        assert not asked


def _owner_allows(tmp_path, monkeypatch):
    assert not [name for name in SETTINGS if "scheme" in name]
    monkeypatch.setenv("POSITION_TRAINER_KYDB_SCHEMES", "http,memory")
    for url in ("http://x", "memory://x"):
        assert parse_value("prices_db", url) == url


def _http_answers(tmp_path, monkeypatch):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pickle.dumps(Runs(tmp_path / "ran")).hex().encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(UserError):
            read_kydb(f"http://127.0.0.1:{server.server_port}/x", "/prices")
        server.shutdown()
    assert (tmp_path / "ran").exists()


def _kind_alone(tmp_path, monkeypatch):
    assert parse_value("prices_db", "files:///root") == "files:///root"


def _no_secrets(tmp_path, monkeypatch):
    for url in (
        "redis://u:p/w@h",
        "redis:/u:p@",
        "s3://x;redis://:p@h",
        "s3://x/y?token=t",
        "redis://u:p",
        "s3://a%40b",
    ):
        with pytest.raises(UserError, match="must not hold a user name|must have the form"):
            parse_value("prices_db", url)


def _nothing_repeated(tmp_path, monkeypatch):
    for url in (f"redis://u:{SECRET}", f"http://{SECRET}/x", f"s3://{SECRET}@x", SECRET):
        with pytest.raises(UserError) as refused:
            parse_value("prices_db", url)
        assert SECRET not in str(refused.value)


def _checksums(tmp_path, monkeypatch):
    db = kydb.connect(f"files:/{tmp_path}/kydb")
    index = pd.date_range("2020-01-01", periods=10, freq="min", tz="UTC", name="dt")
    time_series(db, "/prices").replace(pd.DataFrame({"mid": [1.0, 1.5] * 5}, index))
    time_series(db, "/forged").replace(pd.DataFrame({"mid": [2.0, 2.5] * 5}, index))
    series, forged = time_series(db, "/prices"), time_series(db, "/forged").chunks()[0]
    db[series.chunks()[0]["key"]] = db[forged["key"]]
    with pytest.raises(UserError, match="its checksum does not match"):
        series.curve()
    series.chunks()[0]["sha256"] = forged["sha256"]
    series.write()
    assert read_kydb(f"files:/{tmp_path}/kydb", "/prices").frame["mid"].tolist() == [2.0, 2.5] * 5


CLAIMS = {
    "Whoever can write": _pickles_run,
    "Whoever may send": _requests_choose,
    "Allowed are": _allowed_kinds,
    "Other kinds": _other_kinds,
    "Only the environment variable": _owner_allows,
    "Allowing `http`": _http_answers,
    "The kind is all": _kind_alone,
    "User names": _no_secrets,
    "Messages": _nothing_repeated,
    "Checksums": _checksums,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_said_of_kydb_urls_holds(claim, tmp_path, monkeypatch):
    CLAIMS[claim](tmp_path, monkeypatch)


def test_each_sentence_on_kydb_urls_has_its_test():
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
    section = text.partition("## KYDB URLs")[2].partition("\n## ")[0]
    sentences = re.findall(r"^- (.*)", section, re.MULTILINE)
    assert [next((claim for claim in CLAIMS if each.startswith(claim)), each) for each in sentences] == list(CLAIMS)
