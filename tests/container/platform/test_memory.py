import pytest

from ml.errors import UserError
from ml.platform import memory
from ml.platform.memory import available_memory, check_memory, needed_memory
from ml.settings import Settings


def test_a_batch_takes_no_more_than_the_rows_there_are():
    assert needed_memory(Settings(batch_size=1 << 20), 10_000) == needed_memory(Settings(batch_size=10_000), 10_000)


def test_every_fold_needs_more():
    one, eight = (needed_memory(Settings(folds=folds), 10_000) for folds in (1, 8))
    assert eight > one


@pytest.mark.parametrize("deep", [False, True])
def test_the_limit_of_any_group_above_the_process_counts(tmp_path, deep):
    top = tmp_path / "sys/fs/cgroup/memory"
    own = top / "slice/job"
    own.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("9:name=systemd:/\n4:memory:/slice/job\n0::/\n")
    limited = own if deep else own.parent
    (limited / "memory.limit_in_bytes").write_text("2000000000\n")
    (limited / "memory.usage_in_bytes").write_text("500000000\n")
    (limited / "memory.stat").write_text("total_inactive_file 100000000\n")
    assert available_memory(tmp_path) == (1_600_000_000, "the container's limit of 2.00 GB")


def test_reading_and_training_are_refused_each_with_its_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: (2_000_000_000, "the container's limit of 2.00 GB"))
    check_memory(Settings(), 100_000, reading=1_000_000_000)
    with pytest.raises(UserError, match="reading 200,000,000 rows of prices needs about 9.00 GB of memory and 2.00 GB"):
        check_memory(Settings(), 200_000_000, reading=9_000_000_000)
    with pytest.raises(UserError, match="training needs about .* GB of memory and 2.00 GB are left of"):
        check_memory(Settings(nodes=16384, layers=2), 100_000)


def test_a_population_needs_the_memory_of_its_networks(monkeypatch):
    one, eight = (needed_memory(Settings(nodes=512), 10_000, networks=networks) for networks in (1, 8))
    program = needed_memory(Settings(nodes=1, lookback=2, batch_size=1), 10_000)
    assert eight - program == pytest.approx(8 * (one - program), rel=0.01)
    monkeypatch.setattr(memory, "available_memory", lambda: (2_000_000_000, "the container's limit of 2.00 GB"))
    with pytest.raises(UserError, match="64 networks of 387,074 weights .* smaller batch_size, population"):
        check_memory(Settings(nodes=512), 10_000, networks=64)
