from ml.host import Host
from ml.learn.hosts import Hosts
from ml.learn.sharing import described_work
from ml.settings import PRESETS, Settings

TWO = Hosts([Host("algo-1", ""), Host("algo-2", "")])


def test_two_hosts_pay_for_the_original_network_and_not_for_the_default_one():
    assert described_work(TWO, Settings(), 0, 2).startswith("SEVERAL HOSTS DO NOT PAY")
    assert described_work(TWO, Settings(**PRESETS["original"]), 0, 2).startswith("the 2 hosts train one network")


def test_on_gpus_nothing_is_promised():
    assert "not measured" in described_work(TWO, Settings(), 0, 0)


def test_folds_always_pay_and_hosts_without_one_are_told():
    assert described_work(TWO, Settings(folds=3), 0, 2).endswith("each of which one host trains alone")
    three = Hosts([Host(f"algo-{number}", "") for number in (1, 2, 3)])
    assert described_work(three, Settings(folds=2), 0, 2).endswith("1 of them have nothing to do")
