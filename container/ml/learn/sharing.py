"""How the hosts of a job share its work, and whether they will be faster than one of them."""

from ml.learn.devices import Instance
from ml.learn.hosts import Hosts
from ml.settings import Settings


def described_work(hosts: Hosts, settings: Settings, folds: int, instance: Instance) -> str:
    """What the hosts share, as a line for the log."""
    return f"{hosts.count} hosts"
