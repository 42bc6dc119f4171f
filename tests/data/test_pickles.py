"""The reader of numpy's pickles: equal to pickle on what it takes, and nothing else happens."""

from __future__ import annotations

import pickle
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.core.errors import DataError
from evolve.data.pickles import KINDS, load_arrays


def content() -> dict[str, Any]:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    return {"image_data": images, "class_dict": {"n01": [0, 1], "n02": np.array([1, 0])}}


def read(raw: bytes, folder: Path) -> Any:
    (folder / "x.pkl").write_bytes(raw)
    return load_arrays(folder / "x.pkl", "convert it")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.all(a == b))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_of_pickle(protocol: int, order: str, tmp_path: Path) -> None:
    given = content() | {
        kind: np.asarray(np.arange(6).reshape(2, 3), kind, order=order) for kind in KINDS
    }
    given |= {
        "swapped": np.arange(5, dtype=">i4"),
        "number": np.int64(3),
        "words": [1, 2.5, -(2**70), None, True, "é", b"\xff\x00", (1, (2, 3)), [[]], {}],
    }
    if protocol > 2:  # the older ones call bytes() for it
        given["empty"] = np.zeros((0, 3), np.uint8)
    given["again"] = given["image_data"]
    assert same(read(pickle.dumps(given, protocol), tmp_path), given)


class Call:
    """Pickles as a call, with a state to be set after it."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


OBJECTS = (3, "|", None, None, None, -1, -1, 63)  # the flags of an array of Python's objects


def dtype(text: Any, state: Any = (3, "|", None, None, None, -1, -1, 0)) -> Call:
    return Call(np.dtype, (text, False, True), state)


def array(kind: Any, raw: bytes = b"\0" * 8, shape: Any = (1,)) -> Call:
    from numpy._core.multiarray import _reconstruct

    return Call(_reconstruct, (np.ndarray, (0,), b"b"), (1, shape, kind, False, raw))


HOSTILE = {
    "dtype flags": array(dtype("u1", OBJECTS)),
    "objects over raw bytes": array(dtype("O8", OBJECTS), struct.pack("<Q", 0x4141414141414141)),
    "objects": array(dtype("O")),
    "fields": array(dtype("V8", (3, "|", None, ("a",), {"a": (dtype("O"), 0)}, 8, 1, 27))),
    "a subarray": array(dtype("u1", (3, "|", (np.dtype("O"), (2,)), None, None, -1, -1, 0))),
    "text as type": array(dtype("u1,O")),
    "a list as type": array(Call(np.dtype, ([("a", "O")],))),
    "metadata": array(dtype("u1", (4, "|", None, None, None, -1, -1, 0, {}))),
    "too many elements": array(dtype("u1"), b"abc", (2**40,)),
    "a shape below zero": array(dtype("u1"), b"abc", (-1,)),
    "a class": Call(np.ndarray, (3,)),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_numpy_would_believe_is_refused(name: str, protocol: int, tmp_path: Path) -> None:
    raw = pickle.dumps({"image_data": HOSTILE[name]}, protocol)
    with pytest.raises(DataError, match=r"x\.pkl is not a plain pickle of arrays .*; convert it"):
        read(raw, tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"cnumpy\ndtype\n}(S'__defaults__'\nI1\nub.",  # a state for a function
        b"(dS'a'\nI1\nb.",  # ... for a dict
        b"]0.",  # POP
        b"(I1\nios\nsystem\n.",  # INST
        b"\x80\x02c__main__\nX\n)\x81.",  # NEWOBJ
        b"P1\n.",
        b"}(" + b"(" * 99_999 + b"t" * 99_999 + b"I1\nu.",  # a key whose hash has no end
        b"(" * 100_000 + b".",
        b"]q\x00" + b"(h\x00h\x00l0" * 3 + b".",
        b"",
        b".",
        b"\x8e" + struct.pack("<Q", 2**62) + b".",
    ],
)
def test_other_opcodes_are_refused(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.pkl is not a plain pickle"):
        read(raw, tmp_path)


def test_a_list_of_lists_of_lists_takes_no_time(tmp_path: Path) -> None:
    """2**60 lists by 60 steps, and one that holds itself."""
    begun = time.process_time()
    raw = b"]q\x00" + b"".join(
        b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60)
    )
    read(raw + b"h\x00h\x00a0.".replace(b"0", b""), tmp_path)
    assert time.process_time() - begun < 5


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_no_damage_does_anything_else_than_an_error_or_numbers(data: st.DataObject) -> None:
    """Bytes flipped, cut, doubled: numbers, or the one line."""
    raw = bytearray(pickle.dumps(content(), data.draw(st.sampled_from([0, 2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        length = data.draw(st.integers(0, 12))
        raw[place : place + length] = data.draw(
            st.one_of(st.binary(max_size=12), st.just(bytes(raw[place : place + 2 * length])))
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            plain(read(bytes(raw), Path(folder)))
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


def plain(value: Any, depth: int = 20) -> None:
    """Whether there is nothing but plain things in it."""
    kinds = (int, float, str, bytes, bytearray, bool, type(None), np.generic)
    if isinstance(value, np.ndarray):
        assert value.dtype.str[1:] in KINDS
    elif type(value) in (dict, list, tuple):
        for item in value.values() if isinstance(value, dict) else value:
            if depth:
                plain(item, depth - 1)
    else:
        assert isinstance(value, kinds) or type(value).__name__ in (
            "Name",
            "Kind",
            "object",
            "Blank",
        )
