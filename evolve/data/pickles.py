"""Reads a pickle of numpy arrays without letting it run anything.

A pickle is a program: it may name any function and call it. This unpickler knows only what numpy
makes its arrays of, so any other name ends the reading before it is looked up. What is left to a
stranger is an array of nonsense; callers check what they get.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from evolve.core.errors import DataError

CORES = ("numpy.core", "numpy._core")  # as numpy 1 and numpy 2 call it
ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"{core}.{module}", name)
    for core in CORES
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and numpy arrays, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle's name stands for.

        Raises:
            pickle.UnpicklingError: it has no place among images.
        """
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how the older protocols write bytes
            return latin1
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which has no place among images"
        )


def latin1(text: str, encoding: str) -> bytes:
    """The one use that pickle itself makes of ``_codecs.encode``.

    Args:
        text: what to encode.
        encoding: "latin1".

    Raises:
        pickle.UnpicklingError: the encoding is another.
    """
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def load_arrays(path: Path, convert: str) -> Any:
    """What a pickle holds, Python 2's included.

    Args:
        path: the file.
        convert: the way out, for the error.

    Raises:
        DataError: the file is damaged, or wants to run something.
    """
    try:
        with open(path, "rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle raises whatever its half-read program comes to
        raise DataError(f"{path} is not a plain pickle of arrays ({error}); {convert}") from None
