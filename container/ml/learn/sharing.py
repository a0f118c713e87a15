"""How the hosts of a job share its work, and whether they will be faster than one of them."""

from ml.learn.hosts import Hosts
from ml.settings import Settings

# Measured (docs/speed.md): windows times weights that a core trains in a second, 2.8e10 on 16 cores and 3.7e10 to
# 7.8e10 on 2; seconds a step, and a weight, that two processes on loopback take to add up gradients, 1.1 ms for 1,000
# weights and 21 ms for 2.5 million.
_TRAINED_A_SECOND = 3e10
_EXCHANGE, _EXCHANGE_OF_WEIGHT = 1.0e-3, 8.2e-9


def described_work(hosts: Hosts, settings: Settings, members: int, cores: int) -> str:
    """What each host does, as a line for the log; where one host would be as fast, that it would.

    Args:
        hosts: of the job, at least two.
        settings: folds, and those that a step's time follows from.
        members: of a population; 0: the job trains none.
        cores: of a host without a GPU; 0: it has GPUs, for which nothing was measured.
    """
    count = hosts.count
    if (parts := members or settings.folds) > 1:
        idle = f"; {count - parts} of them have nothing to do" if count > parts else ""
        what = f"{parts} members" if members else f"{parts} folds"
        return f"the {count} hosts share out the {what}, each of which one host trains alone{idle}"
    line = f"the {count} hosts train one network, each on a part of every batch"
    if not cores:
        return f"{line}; on GPUs that was not measured, and one host with more GPUs needs no network between them"
    one, several = seconds_a_step(settings, cores, 1), seconds_a_step(settings, cores, count)
    times = f"{1000 * several:,.2g} ms a step, where one of them would need {1000 * one:,.2g}"
    if several >= one:
        return (
            f"SEVERAL HOSTS DO NOT PAY: {line}, and will need about {times}: {settings.weights:,} weights at "
            f"batch_size {settings.batch_size:,} are soon multiplied, and adding up the hosts' gradients takes longer; "
            "use one host, or a larger batch_size"
        )
    return f"{line}: about {times}"


def seconds_a_step(settings: Settings, cores: int, hosts: int) -> float:
    """About how long a step takes on hosts with so many CPU cores each; a slower network than loopback adds to it."""
    trained = settings.batch_size * settings.weights / (_TRAINED_A_SECOND * cores * hosts)
    return trained if hosts == 1 else trained + _EXCHANGE + _EXCHANGE_OF_WEIGHT * settings.weights
