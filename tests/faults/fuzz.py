"""Files that hypothesis makes up: whole in their form, odd in what they say, sealed where ours are.

`EVOLVE_FUZZ=20 make test-faults` draws twenty times as many, other ones each time; without it they
are the same ones every time.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import pickletools
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import Kind, kinds

from evolve.core import toml
from evolve.core.errors import UserError
from evolve.engine.result import seal_of
from evolve.learngene import tensor_file
from evolve.lineage.scenario import load
from evolve.runs.batch import file as batch_file

EXAMPLES = 300  # of each kind
TIMES = os.environ.get("EVOLVE_FUZZ", "")

WORDS = ("x", "", "vgg16", "conv1", "../x", "/etc/passwd", "a\n\x1b[2J", "é", "\0", "$float", "nan")
NUMBERS = st.one_of(
    st.integers(-3, 70), st.integers(), st.floats(), st.sampled_from([2**63, 1e308])
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=8))
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def odd(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON in which one to three places hold something else, or are gone."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return value
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.integers(0, 5))
        if how == 0:
            del holder[key]
        elif how == 1:
            other = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = copy.deepcopy(other[0][other[1]])
        else:
            holder[key] = draw(JUNK)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


TENSORS = st.builds(
    lambda shape, kind, fill: torch.full(shape, fill).to(kind),
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]),
    st.sampled_from([0.0, 1.0, float("nan"), float("inf"), -1.0]),
)


@st.composite
def other_tensors(draw: st.DrawFn, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's tensors of which some are others, are gone, or have another name."""
    tensors = dict(tensors)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(tensors))) if tensors else "x"
        tensor = tensors.pop(name, torch.ones(1))
        how = draw(st.integers(0, 3))
        if how == 1:
            tensors[draw(st.sampled_from(WORDS[:7])) + name] = tensor
        elif how == 2:
            tensors[name] = draw(TENSORS)
        elif how == 3:
            tensors[name] = tensor.reshape(-1)[: draw(st.integers(0, 3))]
    return tensors


@st.composite
def settings_text(draw: st.DrawFn) -> str:
    """A scenario's or batch's TOML: true sections and keys, with values of any kind."""
    chosen = toml.to_dict(load("glyphs-seq25", "quick").settings)
    value = draw(odd(chosen))
    if draw(st.booleans()):
        value = {"title": "t", "scenario": "glyphs-seq25", "seeds": [0]} | draw(
            st.fixed_dictionaries({"axes": JUNK, "set": odd(chosen), "case": JUNK})
        )
    text = (
        "".join(f"{_key(key)} = {_toml(item)}\n" for key, item in value.items())
        if isinstance(value, dict)
        else str(value)
    )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(["[", '"""', "=", "[[a]]\n", "\0", "é", "'"]))
            + text[at:]
        )
    return text


def _key(key: str) -> str:
    return json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf", "null": '""'}.get(
        text := json.dumps(value), text
    )


@st.composite
def opcodes(draw: st.DrawFn, plain: bytes) -> bytes:
    """A pickle of an array with opcodes put in, each with arguments of its form."""
    raw = bytearray(pickle.dumps(pickle.loads(plain), draw(st.sampled_from([0, 2, 4]))))
    for _ in range(draw(st.integers(1, 5))):
        code = draw(st.sampled_from(pickletools.opcodes))
        size = 0 if code.arg is None else code.arg.n
        if size >= 0:
            argument = draw(st.binary(min_size=size, max_size=size))
        elif code.arg is not None and code.arg.n == pickletools.UP_TO_NEWLINE:
            argument = draw(st.sampled_from([b"os\nsystem\n", b"1\n", b"numpy\ndtype\n", b"'a'\n"]))
        else:
            content = draw(st.binary(max_size=6))
            width = {-2: 1, -3: 4, -4: 4, -5: 8}.get(size, 4)
            argument = len(content).to_bytes(width, "little") + content
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = code.code.encode("latin-1") + argument
    return bytes(raw)


@st.composite
def header(draw: st.DrawFn, data: bytes) -> bytes:
    """A safetensors file whose header's JSON is odd, with a length that fits or does not."""
    size = struct.unpack("<Q", data[:8])[0]
    told = draw(odd(json.loads(data[8 : 8 + size])))
    text = json.dumps(told).encode()
    length = draw(st.sampled_from([len(text), len(text), len(text) + 1, 0, 2**40]))
    return struct.pack("<Q", length) + text + data[8 + size :]


Target = tuple[str, st.SearchStrategy[Any], Callable[[Any], Any]]


class Place:
    """A kind's file, which is written anew for every example.

    Args:
        kind: the kind.
        folder: an empty one.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder, self.kept = kind, folder / "used", folder / "kept"
        self.kept.mkdir(parents=True)
        kind.make(self.kept)
        (file,) = self.kept.glob(kind.file)
        self.name, self.data = file.relative_to(self.kept), file.read_bytes()

    def read(self, content: bytes) -> Any:
        """Read the file with this content, as evolve does."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.kept, self.folder)
        (self.folder / self.name).write_bytes(content)
        return self.kind.read(self.folder)

    def read_sealed(self, value: Any) -> Any:
        """The same for JSON, which is sealed where it can be."""
        if isinstance(value, dict):
            with suppress(TypeError, ValueError):
                value["seal"] = seal_of(value)
        return self.read(json.dumps(value).encode())


def targets(folder: Path) -> Iterator[Target]:
    """What is fuzzed: a name, what is drawn, and who reads it.

    Args:
        folder: an empty one.
    """
    place = {kind.name: Place(kind, folder / str(number)) for number, kind in enumerate(kinds())}
    file = folder / "x.toml"

    def settings_of(text: str) -> Any:
        file.write_text(text, "utf-8", "surrogatepass")
        with suppress(UserError):
            return load(str(file))
        return batch_file.load(str(file))

    yield "TOML", settings_text(), settings_of
    for name in ("store: manifest.json", "store.json", "run.json", "card of a run"):
        yield name, odd(json.loads(place[name].data)), place[name].read_sealed
    for name, kind in (("learngene", "learngene"), ("ancestor", "ancestor"), ("model", "model")):
        yield f"{name} file", *_sealed(place[f"{name} file"], kind)
    for name in ("any file", "checkpoint, safetensors"):
        yield f"{name}: safetensors' header", header(place[name].data), place[name].read
    yield (
        "pickle of arrays",
        opcodes(place["pickle of arrays"].data),
        place["pickle of arrays"].read,
    )
    saved = place["checkpoint, torch.save"]
    state = torch.load(io.BytesIO(saved.data), weights_only=True)
    yield "checkpoint, torch.save", saved_states(state), saved.read


def _sealed(place: Place, kind: str) -> tuple[st.SearchStrategy[Any], Callable[[Any], Any]]:
    """A file of ours with a checksum that is right."""
    about, tensors = tensor_file.read(place.kept / place.name, kind)
    file = place.kept.parent / "made.safetensors"

    def read(drawn: tuple[Any, dict[str, torch.Tensor]]) -> Any:
        tensor_file.write(file, kind, *drawn)
        return place.read(file.read_bytes())

    return st.tuples(odd(about), other_tensors(tensors)), read


@st.composite
def saved_states(draw: st.DrawFn, state: dict[str, torch.Tensor]) -> bytes:
    """A file of torch.save: the network at the top or below a name, beside anything."""
    content: Any = draw(other_tensors(state))
    for name in draw(st.lists(st.sampled_from(("model", "teacher", "x", 3)), max_size=3)):
        content = {name: content}
    if draw(st.booleans()):
        content = {**content, draw(st.sampled_from(WORDS)): draw(st.one_of(JUNK, TENSORS))}
    if draw(st.integers(0, 9)) == 0:
        content = draw(st.sampled_from([[content], (), None, torch.ones(2), {1: torch.ones(2)}]))
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=draw(st.booleans()))
    return file.getvalue()


def fuzz(target: Target, tried: Callable[[Callable[[], Any]], tuple[str, Any]]) -> Counter[str]:
    """Draw and read files of one kind, and count what became of them.

    Args:
        target: one of :func:`targets`.
        tried: what becomes of a call: ("value", it), ("refused", line), ("traceback", error).
    """
    name, strategy, read = target
    count: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES * int(TIMES or 1),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: Any) -> None:
        what, value = tried(lambda: read(example))
        assert what != "traceback", f"{value} by {str(example)[:600]}"
        count["other" if what == "value" and value != repr(None) else "refused"] += 1

    try:
        each()
    except AssertionError as error:  # the simplest one that hypothesis could make
        count["traceback"] += 1
        print(f"fuzzed {name}: {error}", file=sys.stderr)
    return count
