"""Twenty kills at random moments, as a process and in Docker: the weights are those of a job never killed."""

import chaos


def test_ten_kills_of_processes_leave_the_weights_as_they_would_have_been():
    assert chaos.run(kills=10, chains=2, seed=1) == 10


def test_ten_kills_of_containers_leave_the_weights_as_they_would_have_been(image):
    assert chaos.run(kills=10, chains=2, seed=11, image=image) == 10
