"""The fixtures of an account in moto, for this folder alone: they replace credentials and the launcher's fixture."""

from moto_account import cloud, credentials, launch, ready, request_of

__all__ = ["cloud", "credentials", "launch", "ready", "request_of"]
