"""Errors that a user can put right: the message is one line, shown without a traceback."""


class Failure(Exception):
    """What a command ends with, in one line: what, where, how much, and what to do. `exit_code` is the process's."""

    exit_code = 1


class DataError(Failure):
    """Wrong, missing or unreadable data."""


class UsageError(DataError):
    """A command that names something that is not there, or asks for what cannot be."""

    exit_code = 2
