"""Reads a pickle of numpy arrays without running it.

A pickle is a program: it may name any function, call it, and set what it likes on what came back.
Nothing of Python's own machine is used here. The standard library lists the opcodes with their
arguments, and this module knows what a few of them do to dicts, lists, tuples, strings, numbers and
arrays of numbers. Any other opcode or name ends the reading. What is left to a stranger is an array
of nonsense; callers check what they get.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from evolve.core.errors import DataError, first_line
from evolve.core.terminal import printable

KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")  # what an array's elements may be
CORES = ("numpy.core", "numpy._core")  # as numpy 1 and numpy 2 call it
LARGEST = 2 << 30  # bytes of a file; miniImageNet's largest has 0.8 GB
STEPS = 10_000_000  # opcodes; miniImageNet's have some 100,000
# Opcodes whose argument is the value itself, and those that stand for one.
VALUES = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = ("PROTO", "FRAME")
MARK = object()


class Refused(ValueError):
    """The pickle asks for something that has no place among images."""


class Name:
    """A name that a pickle may use: of numpy's, "array", "dtype", ..."""

    def __init__(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in ROLES:
            raise Refused(f"it asks for {module}.{name}, which has no place among images")
        self.role = ROLES[module, name]


ROLES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
for core in CORES:
    ROLES[f"{core}.multiarray", "_reconstruct"] = "blank"
    ROLES[f"{core}.multiarray", "scalar"] = "scalar"
    ROLES[f"{core}.numeric", "_frombuffer"] = "frombuffer"


class Kind:
    """A dtype that is being read: one of :data:`KINDS`, then its byte order."""

    def __init__(self, text: Any, align: Any = False, copy: Any = True) -> None:
        if text not in KINDS:
            raise Refused(f"it asks for elements of the type {text!r}, not of {', '.join(KINDS)}")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> None:
        """Take the state that numpy writes of a plain dtype: only the byte order is free."""
        if type(state) is not tuple or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise Refused("it describes elements that are no plain numbers")
        if state[0] != 3 or state[2:] != (None, None, None, -1, -1, 0):
            raise Refused("it describes elements that are no plain numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class Blank:
    """An array that is being read: empty, until its state comes."""

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        if not isinstance(kind, Name) or kind.role != "ndarray":
            raise Refused("it makes something else than an array")
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """Take (version, shape, dtype, whether in Fortran's order, bytes)."""
        _, shape, kind, fortran, content = state
        self.array = array_of(content, kind, shape, "F" if fortran else "C")


def array_of(content: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array over bytes.

    Args:
        content: the bytes; a string is Python 2's, one character a byte.
        kind: a :class:`Kind`.
        shape: a tuple of numbers.
        order: "C" or "F".

    Raises:
        Refused: they do not fit each other.
    """
    if type(content) is str:
        content = content.encode("latin1")
    sides = shape if type(shape) is tuple else (-1,)
    if type(content) not in (bytes, bytearray) or not isinstance(kind, Kind):
        raise Refused("it has an array without bytes or type")
    if not all(type(side) is int and side >= 0 for side in sides) or order not in ("C", "F"):
        raise Refused("it has an array without a shape")
    flat = np.frombuffer(content, kind.dtype)
    try:
        return flat.reshape(sides, order=order)
    except ValueError:
        raise Refused(f"it has {len(flat)} elements for an array of shape {sides}") from None


def encoded(text: Any, encoding: Any) -> bytes:
    """How the older protocols write bytes: the one use that pickle makes of ``_codecs.encode``.

    Raises:
        Refused: the encoding is another.
    """
    if encoding != "latin1" or type(text) is not str:
        raise Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def scalar(kind: Any, content: Any) -> Any:
    """One number, of numpy's type."""
    return array_of(content, kind, ())[()]


CALLS: dict[str, Callable[..., Any]] = {
    "blank": Blank,
    "dtype": Kind,
    "encode": encoded,
    "frombuffer": array_of,
    "scalar": scalar,
}


class Reader:
    """Goes through a pickle's opcodes with a stack and a memo, as pickle does."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def read(self, file: IO[bytes]) -> Any:
        """What the pickle in ``file`` holds.

        Raises:
            Refused, and what a damaged pickle comes to: ValueError, IndexError, TypeError, ...
        """
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "STOP":
                return settled(self.last(1)[0])
            if step > STEPS:
                raise Refused(f"it has more than {STEPS} steps")
            self.take(opcode.name, argument)
        raise Refused("it has no end")

    def take(self, name: str, argument: Any) -> None:
        """Do what an opcode does."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self.last(TUPLES[name])))
        elif name == "MARK":
            self.stack.append(MARK)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = argument.split(" ", 1) if name == "GLOBAL" else self.last(2)
            self.stack.append(Name(*words))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in IGNORED:
            self.combine(name)

    def combine(self, name: str) -> None:
        """An opcode that makes something of what lies on the stack."""
        if name in ("APPEND", "APPENDS"):
            items = self.last(1) if name == "APPEND" else self.marked()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.last(2) if name == "SETITEM" else self.marked()
            self.top(dict).update(entries(items))
        elif name in ("LIST", "TUPLE"):
            items = self.marked()
            self.stack.append(items if name == "LIST" else tuple(items))
        elif name == "DICT":
            self.stack.append(entries(self.marked()))
        elif name == "REDUCE":
            called, given = self.last(2)
            call = CALLS.get(called.role) if isinstance(called, Name) else None
            if call is None or type(given) is not tuple:
                raise Refused("it calls something that has no place among images")
            self.spend(given)
            self.stack.append(call(*given))
        elif name == "BUILD":
            (state,) = self.last(1)
            if not isinstance(self.stack[-1], (Blank, Kind)):
                raise Refused("it sets the state of something else than an array")
            self.spend(state)
            self.stack[-1].build(state)
        else:
            raise Refused(f"it uses {name}, which has no place among images")

    def spend(self, values: Any) -> None:
        """Count strings that may be copied into bytes: a short pickle may name a long one often."""
        self.copied += sum(len(value) for value in values if type(value) is str)
        if self.copied > LARGEST:
            raise Refused(f"it makes more than {LARGEST} bytes")

    def last(self, count: int) -> list[Any]:
        """Take the last values off the stack."""
        if len(self.stack) < count or any(value is MARK for value in self.stack[-count:]):
            raise Refused("it takes a value where there is none")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def marked(self) -> list[Any]:
        """Take all values behind the last mark off the stack."""
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def top(self, kind: type) -> Any:
        """What lies on top: a list, or a dict."""
        if type(self.stack[-1]) is not kind:
            raise Refused(f"it fills something that is no {kind.__name__}")
        return self.stack[-1]


def entries(items: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn; a key is text or a number, which hash at once."""
    if not all(type(key) in (str, int) for key in items[::2]):
        raise Refused("it has a key that is neither text nor a whole number")
    return dict(zip(items[::2], items[1::2], strict=True))


def settled(value: Any) -> Any:
    """``value`` with its blanks replaced by their arrays, in dicts and lists, each visited once."""
    whole = [value]
    waiting: list[Any] = [whole]
    seen: set[int] = set()
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for place, item in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(item, Blank):
                holder[place] = item.array
            elif isinstance(item, (dict, list)):
                waiting.append(item)
    return whole[0]


def load_arrays(path: Path, convert: str) -> Any:
    """What a pickle holds, Python 2's included.

    Args:
        path: the file.
        convert: the way out, for the error.

    Raises:
        DataError: the file is damaged, too large, or wants to run something.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise Refused(f"it has {size} bytes; at most {LARGEST} are read")
        with open(path, "rb") as file:
            return Reader().read(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle comes to whatever its half-read program does
        raise DataError(
            f"{path} is not a plain pickle of arrays ({printable(first_line(error))[:200]}); {convert}"
        ) from None
