"""Following a job: one loop for training and tuning jobs, and what Ctrl-C does in it."""

import contextlib

import botocore.exceptions
import pytest

from follow import INTERRUPTED, follow
from place.base import Job


class Place:
    """What the loop asks of a place: to stop a job."""

    def __init__(self):
        self.stopped = []

    def stop(self, name):
        self.stopped.append(name)

    def stop_tuning(self, name):
        self.stopped.append(f"tuning job {name}")


def view(*happenings):
    """A view in which these happen, one each time that it is shown."""
    left = list(happenings)

    def show_until_end():
        if left and (happening := left.pop(0)):
            raise happening

    return contextlib.nullcontext(show_until_end)


@pytest.mark.parametrize(("tuning", "stopped"), [(False, "one"), (True, "tuning job one")])
def test_ctrl_c_stops_a_job_and_follows_it_to_its_end(capsys, tuning, stopped):
    place = Place()
    assert follow(Job(place, "one", tuning), view(KeyboardInterrupt()), interrupt_stops_job=True)
    assert place.stopped == [stopped]
    assert "once more leaves it to stop by itself" in capsys.readouterr().err


def test_ctrl_c_twice_leaves_a_job_that_was_asked_to_stop(capsys):
    place = Place()
    with pytest.raises(SystemExit, match=str(INTERRUPTED)):
        follow(Job(place, "one", False), view(KeyboardInterrupt(), KeyboardInterrupt()), interrupt_stops_job=True)
    assert place.stopped == ["one"]
    assert "one goes on; come back with: python sagemaker/launch.py logs one" in capsys.readouterr().err


def test_ctrl_c_leaves_a_job_alone_where_it_is_not_to_be_stopped():
    place = Place()
    with pytest.raises(SystemExit, match=str(INTERRUPTED)):
        follow(Job(place, "one", True), view(KeyboardInterrupt()), interrupt_stops_job=False)
    assert place.stopped == []


def test_a_lost_connection_says_how_to_come_back():
    error = botocore.exceptions.EndpointConnectionError(endpoint_url="https://nowhere")
    with pytest.raises(botocore.exceptions.EndpointConnectionError) as raised:
        follow(Job(Place(), "one", False), view(error), interrupt_stops_job=True)
    assert raised.value.__notes__ == ["one goes on; come back with: python sagemaker/launch.py logs one"]


def test_a_job_that_ends_was_not_interrupted():
    assert not follow(Job(Place(), "one", False), view(None), interrupt_stops_job=True)
