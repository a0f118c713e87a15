"""The fixtures of a Docker engine, for this folder alone."""

from docker_engine import engine, stub_image

__all__ = ["engine", "stub_image"]
