import re
from datetime import date

import boto3
import kydb
import pytest

from histories import KEY, assert_same, history
from ml.data.sources import read_kydb
from ml.errors import UserError, redacted
from ml.timeseries import register, time_series


def test_a_history_is_read_and_cut(files_url):
    frame = history(3 * 1440)
    time_series(kydb.connect(files_url), KEY).replace(frame)
    read = read_kydb(files_url, KEY, date(2020, 1, 2), date(2020, 1, 2))
    assert_same(read.frame, frame.loc["2020-01-02"])


def test_any_object_with_a_curve_serves(files_url, tmp_path, monkeypatch):
    (tmp_path / "athena.py").write_text(
        "import kydb, pandas as pd\n"
        "class AthenaCurve(kydb.DbObj):\n"
        "    def curve(self, start, end):\n"
        "        dt = pd.date_range('2020', periods=5, freq='min')\n"
        "        return pd.DataFrame({'dt': dt, 'mid': [1.0, 2.0, 1.0, 2.0, 1.0], 'x': 'y'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    db = kydb.connect(files_url)
    db.upload_objdb_config({"AthenaCurve": {"module_path": "athena", "class_name": "AthenaCurve"}})
    db.new("AthenaCurve", KEY).write()
    frame = read_kydb(files_url, KEY).frame
    assert list(frame) == ["mid"] and frame.index.tz is not None and len(frame) == 5


def test_what_is_no_history_is_told(files_url):
    db = kydb.connect(files_url)
    db["/symbols/number"] = 5
    db["/symbols/FX_BTC_USD"] = 6
    with pytest.raises(UserError, match=r"is a int without a method curve"):
        read_kydb(files_url, "/symbols/number")
    with pytest.raises(UserError, match=r"no price history /symbols/FX in files:.* beside it are FX_BTC_USD, number"):
        read_kydb(files_url, "/symbols/FX")
    with pytest.raises(UserError, match=r"no KYDB URL, received nosql://x"):
        read_kydb("nosql://x", "/y")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:1/base", "ConnectionError"),
        ("s3://epython-none", "EndpointConnectionError"),
        ("dynamodb://epython-none/timeseries", "EndpointConnectionError"),
    ],
)
def test_an_unreachable_database_is_told(aws, monkeypatch, url, reason):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=rf"{re.escape(KEY)} in {url} cannot be read: {reason}.*check the URL"):
        read_kydb(url, KEY)


def test_forbidden_is_not_mistaken_for_missing(aws, monkeypatch):
    from botocore.exceptions import ClientError

    boto3.client("s3").create_bucket(Bucket="forbidden")
    db = kydb.connect("s3://forbidden")
    response = {"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def denied(*args, **kwargs):
        raise ClientError(response, "HeadObject")

    monkeypatch.setattr(db.s3, "head_object", denied)
    monkeypatch.setattr(db.s3, "get_object", denied)
    with pytest.raises(UserError, match="may not be read .*grant s3:GetObject"):
        read_kydb("s3://forbidden", KEY)
    with pytest.raises(UserError, match="may not be read"):
        register(db)


def test_secrets_in_a_url_are_not_shown():
    assert redacted("redis://user:secret@host:6379/base") == "redis://...@host:6379/base"
    assert redacted("s3://bucket/a;redis://:pw@h") == "s3://...@h"
    with pytest.raises(UserError) as caught:
        read_kydb("redis://user:secret@127.0.0.1:1/base", KEY)
    assert "secret" not in str(caught.value)
