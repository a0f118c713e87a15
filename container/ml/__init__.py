"""position-trainer: trains, measures and publishes a network that says long or short."""

__version__ = "0.9.0"
