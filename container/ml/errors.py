"""The one error class that a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: a setting, a file, a key, a permission, a wrong instance.

    Its message is one line that stands alone: what is wrong, where, what was received, what to do.
    Every other exception is a fault of this program or of the platform and keeps its traceback.
    """
