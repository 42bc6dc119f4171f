"""Errors that a user can cause and mend.

The command line prints them as one line and exits with code 2.
"""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; empty for one that says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


class UserError(Exception):
    """Something the user can mend: a wrong key, a missing file, a full disk.

    The message is one line that names the file, key or value, what is allowed and what to do.
    """


class DataError(UserError):
    """The images cannot be had: no network, a damaged or wrong file, an empty folder."""


class StoreError(UserError):
    """The store cannot be used: read-only, full, or written by an incompatible version."""
