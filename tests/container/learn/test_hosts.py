"""What hosts tell each other: each host is a thread of this process, with a connection of its own on loopback."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from host_jobs import free_port
from ml.errors import UserError
from ml.host import Host
from ml.learn import hosts as module
from ml.learn import links
from ml.learn.hosts import ONE_HOST
from ml.learn.links import Message
from ml.learn.meeting import StoppedWaiting, joined


def never():
    return False


class Ended(Exception):
    pass


def no_end(message):
    raise Ended(message)


def host_of(number, port, do, job="job", count=2, end=no_end):
    """What `do` makes of one host of a job."""
    places = [Host(f"algo-{each + 1}", "127.0.0.1", port) for each in range(count)]
    with joined(places, places[number].name, job, 20, never, end) as hosts:
        return do(hosts)


def in_each(do, count=2):
    """What `do` makes of each host of a job; an exception counts as what it makes."""
    port = free_port()

    def host(number):
        try:
            return host_of(number, port, do, count=count)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(host, range(count)))


def test_every_host_has_the_same_sum_to_the_last_bit():
    parts = np.random.default_rng(1).normal(size=(3, 5))
    sums = in_each(lambda hosts: hosts.summed("sums", parts[hosts.number]), 3)
    expected = parts[0] + parts[1] + parts[2]
    assert all(total.tobytes() == expected.tobytes() for total in sums)


def test_one_hosts_yes_is_everyones():
    assert in_each(lambda hosts: hosts.any("stop", hosts.number == 1), 3) == [True] * 3
    assert in_each(lambda hosts: hosts.any("stop", False), 3) == [False] * 3
    assert ONE_HOST.any("stop", True) and not ONE_HOST.any("stop", False)


def test_what_the_first_host_tells_arrives_whole():
    weights = np.arange(3_000_000, dtype=np.float32)

    def tell(hosts):
        return hosts.from_first("it", Message([1.5, float("inf")], {"w": weights}) if hosts.first else Message(None))

    for message in in_each(tell):
        assert message.values == [1.5, float("inf")]
        np.testing.assert_array_equal(message.arrays["w"], weights)


@pytest.mark.parametrize("items", [0, 1, 2, 5, 7])
def test_items_are_shared_out_once_each_and_the_first_host_has_the_last(items):
    parts = in_each(lambda hosts: hosts.shared_out(list(range(items))), 3)
    assert sorted(item for part in parts for item in part) == list(range(items)) and all(
        part == sorted(part) for part in parts
    )
    assert not items or parts[0][-1] == items - 1


def test_a_stop_is_heard_by_hosts_that_work_apart():
    def work(hosts):
        asked = hosts.hearing_of_stops(lambda: hosts.number == 2)
        until = time.monotonic() + 20
        while not asked() and time.monotonic() < until:
            time.sleep(0.01)
        return asked()

    assert in_each(work, 3) == [True] * 3


def test_hosts_that_differ_are_refused_on_all_of_them():
    for error in in_each(lambda hosts: hosts.compare({"prices": f"of {hosts.number}"})):
        assert isinstance(error, UserError) and "algo-2 has other prices than algo-1" in str(error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_host_that_fails_ends_the_others_with_its_reason():
    told, ends = threading.Semaphore(0), []

    def end(message):
        ends.append(message)
        told.release()
        raise Ended

    def work(hosts):
        if hosts.number == 1:
            raise UserError("no prices")

    port = free_port()
    for number in range(3):  # the others wait at their end, from which a process would be ended
        threading.Thread(target=host_of, args=(number, port, work, "job", 3, end), daemon=True).start()
    assert told.acquire(timeout=20) and told.acquire(timeout=20)
    assert ends == ["algo-2 failed: no prices"] * 2


def first_of_two(end):
    """The hosts of a job as the first of two sees them, and the other's end of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    places = [Host("algo-1", "127.0.0.1"), Host("algo-2", "127.0.0.1")]
    return module.Hosts(places, 0, [links.Link("algo-2", ours)], end), theirs


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("silent", "reason"), [(False, "host algo-2 ended without a word"), (True, "host algo-2 gave no sign of life for")]
)
def test_a_host_that_is_gone_ends_the_others(monkeypatch, silent, reason):
    if silent:
        monkeypatch.setattr(links, "SILENCE", 0.5)  # less than from one sign of life to the next
    ends, listening = [], threading.Event()

    def end(message):
        ends.append(message)
        listening.set()
        raise Ended

    _, theirs = first_of_two(end)
    if not silent:
        theirs.close()
    assert listening.wait(20)
    assert ends[0].startswith(reason)
    theirs.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_collective_that_fails_by_a_death_leaves_the_reason_to_whoever_heard_of_it(monkeypatch):
    ending, ended = threading.Event(), []

    def end(message):
        ending.set()
        time.sleep(0.5)  # writes the reason
        ended.append(message)
        raise Ended

    hosts, theirs = first_of_two(end)
    monkeypatch.setattr(module, "SILENCE", 1.0)
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.0)
    theirs.close()
    assert ending.wait(20)
    hosts.fail(type("UnavailableError", (Exception,), {})("a peer went down"))
    assert [text.startswith("host algo-2 ended without a word") for text in ended] == [True]


def test_strangers_are_passed_over():
    port = free_port()
    answers = []

    def knock():
        for words in (b"GET / HTTP/1.1\r\n\r\n" + b" " * 4096, links._HEAD.pack(b"h", 1 << 40), b""):
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                        stranger.sendall(words)
                        stranger.shutdown(socket.SHUT_WR)
                        answers.append(stranger.recv(100))
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
                except OSError:
                    answers.append(b"")
                    break

    def work(hosts):
        return hosts.any("stop", False)

    knocking = threading.Thread(target=knock)
    knocking.start()
    with ThreadPoolExecutor(2) as pool:  # algo-2 comes once the strangers were there
        first = pool.submit(host_of, 0, port, work)
        knocking.join()
        second = pool.submit(host_of, 1, port, work)
        assert first.result() is False and second.result() is False
    assert answers == [b"", b"", b""]


def test_a_host_of_another_job_is_refused():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(host_of, 0, port, lambda hosts: "met")
        with pytest.raises(UserError, match="not this job's: job job runs here and not other"):
            host_of(1, port, lambda hosts: None, "other")
        host_of(1, port, lambda hosts: None)
        assert first.result() == "met"


def test_waiting_for_hosts_ends_when_the_process_is_asked_to_end():
    place = [Host("algo-1", "127.0.0.1", free_port()), Host("algo-2", "127.0.0.1")]
    with (
        pytest.raises(StoppedWaiting),
        joined(place, "algo-1", "job", 60, lambda: True, no_end),
    ):
        pass
