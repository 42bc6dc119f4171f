"""Every random draw of a lineage, made from (seed, purpose), never from global state.

A stage that draws only from here gives the same numbers in any order of execution, in any process
and after any resume; two methods that name the same purpose get the same draw, so they are paired.
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
    """A 63-bit seed that depends on every part of ``purpose``; (1, "23") and (12, "3") differ."""
    text = json.dumps([seed, *purpose], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose.

    Draws are made on the CPU so that the device cannot change them.
    """
    made = torch.Generator(device="cpu")
    made.manual_seed(derive_seed(seed, *purpose))
    return made


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and random inside; put them back on leaving.

    For libraries that draw from global state (Avalanche): inside, they see a state that depends on
    ``seed`` alone.
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
