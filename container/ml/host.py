"""A host of a job, as the platform names it and the training reaches it."""

from typing import NamedTuple

PORT = 8890  # of the first host, where nobody names another; AWS's TensorFlow containers use it for the same


class Host(NamedTuple):
    """A host of a job: its name, and where it is reached."""

    name: str
    address: str
    port: int = PORT
