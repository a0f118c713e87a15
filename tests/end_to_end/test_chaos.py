"""Kills at random moments, of processes and of containers: the weights are those of a job never killed."""

import chaos


def test_ten_kills_of_processes_leave_the_weights_as_they_would_have_been():
    assert chaos.run(kills=10, chains=2, seed=1) == 10


def test_five_kills_over_a_universe_leave_the_weights_as_they_would_have_been():
    assert chaos.run(kills=5, chains=1, seed=21, of_universe=True) == 5


def test_ten_kills_of_containers_leave_the_weights_as_they_would_have_been(image):
    assert chaos.run(kills=10, chains=2, seed=11, image=image) == 10
