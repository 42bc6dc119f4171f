"""Errors that a user can cause and mend.

The command line prints them as one line and exits with code 2.
"""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; empty for one that says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full.

    That hangs on who else computes there, so nothing may follow from it but an end: no other path,
    whose numbers would be rounded otherwise.
    """
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or any(words in str(error) for words in ("CUDA error: out of memory", "ALLOC_FAILED"))
    )


class UserError(Exception):
    """Something the user can mend: a wrong key, a missing file, a full disk.

    The message is one line that names the file, key or value, what is allowed and what to do.
    """


class DataError(UserError):
    """The images cannot be had: no network, a damaged or wrong file, an empty folder."""


class StoreError(UserError):
    """The store cannot be used: read-only, full, or written by an incompatible version."""
