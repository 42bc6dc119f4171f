"""Every random draw of a lineage, made from (seed, purpose), never from global state.

A stage that draws only from here gives the same numbers in any order of execution, in any process
and after any resume. Two methods that name the same purpose get the same draw, so they are paired.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits from every part of ``purpose``; (1, "23") and (12, "3") differ."""
    text = json.dumps([seed, *purpose], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose. It draws on the CPU, so no device can change the numbers."""
    source = torch.Generator(device="cpu")
    source.manual_seed(derive_seed(seed, *purpose))
    return source


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and random inside; put them back on leaving.

    This is for libraries that draw from global state (Avalanche). Inside, they see a state that
    depends on ``seed`` alone.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        reseed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def reseed(seed: int) -> None:
    """Seed the global generators; only inside :func:`isolated_rng`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
