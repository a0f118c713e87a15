"""Sixteen jobs that publish to one key and read it at once; `make load` does it for longer."""

import pytest

import load


@pytest.mark.parametrize("server", [load.redis_url, load.s3_url])
def test_no_model_is_read_half_and_none_is_lost(server):
    with server() as url:
        found = load.run(url, seconds=6)
    assert found["jobs"] == load.JOBS and found["published"] >= load.JOBS and found["reads"] >= load.JOBS
    assert found["half"] == found["lost"] == 0
