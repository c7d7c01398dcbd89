"""Errors that a user can put right: the message is one line, shown without a traceback."""


class Failure(Exception):
    """What a command ends with, in one line: what, where, how much, and what to do. `exit_code` is the process's.

    2: the command line or the config is wrong in itself, and nothing was looked at. 1: what was looked at, on disk
    above all, does not serve.
    """

    exit_code = 1


class DataError(Failure):
    """Wrong, missing or unreadable data."""


class UsageError(DataError):
    """A command that asks for what cannot be, wherever it is given."""

    exit_code = 2
