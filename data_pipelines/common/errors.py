"""The one exception for data that a user can put right: its message is one line, shown without a traceback."""


class DataError(Exception):
    """Wrong, missing or unreadable data. The message says what, where, how much, and what to do."""


class UsageError(DataError):
    """A command that names something that is not there, or asks for what cannot be."""
