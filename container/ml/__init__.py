"""Price histories in KYDB, and the training of models on them."""

__version__ = "0.9.0"
