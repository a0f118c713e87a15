"""The error that a user is meant to read, and how text from outside is shown in messages and logs."""

import re


class UserError(ValueError):
    """Something the user can mend: a setting, a file, a key, a permission, a wrong instance.

    Its message is one line that stands alone: what is wrong, where, what was received, what to do.
    Every other exception is a fault of this program or of the platform and keeps its traceback.
    """


def printable(text: str) -> str:
    """The text as one line, with escapes for control characters and for what UTF-8 cannot encode."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in " ".join(text.split())
    )


def redacted(text: str) -> str:
    """The text without the user names, passwords and queries that URLs in it hold.

    A password may hold `/`, `;` or `:`, so everything goes from the first `scheme:/` of a run of characters without a
    blank to the last `@` in it. Rather too much goes than too little.
    """
    text = re.sub(r"(\w:/+)\S*@", r"\1...@", text)
    return re.sub(r"(\w:/+[^\s?]*\?)[^\s'\"<>)]+", r"\1...", text)


def one_line(error: BaseException) -> str:
    """An exception as one line, without the secrets that URLs in it may hold."""
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))
