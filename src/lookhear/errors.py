"""Errors that a user can mend.

Everything a user can fix is a `UserError`: one line that says what is wrong, why, and what to do next. The command
line prints that line without a traceback. What only we can break is an `assert`.
"""


class UserError(Exception):
    """Something the user can fix. The message is the whole answer: what, why, and what to do next."""


class UsageError(UserError):
    """A command that does not say what it is about: exit code 2, as for arguments that cannot be read."""


class ConfigError(UserError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class MediaError(UserError):
    """A media file that cannot be read, or not in the way that was asked.

    `reason` says why without the path: what a store or an index writes down beside the name of the file, so that it
    does not depend on how the folder was spelled.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class StoreError(UserError):
    """A training store that is missing, unfinished, damaged, or does not fit what is asked of it."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or does not fit the model."""


class IndexStateError(UserError):
    """A search index that is missing, was made by another model, or cannot answer what is asked."""


def reason_of(error: Exception) -> str:
    """Why a file could not be read, without its path, which the texts of system and decoder errors end with."""
    if isinstance(error, MediaError):
        return error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
