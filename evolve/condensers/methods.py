"""The records of our condensers: code, help, [condense] settings read, cost.

Nothing here imports torch. A setting that a method does not read must not change the key of its
stage: two scenarios that differ in it alone share the result.
``tests/lineage/test_lineage_keys.py`` runs every condenser on settings that record what is read of
them, and compares with this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from evolve.condensers import cost
from evolve.core.registry import Record
from evolve.core.settings import CondenseSettings


@dataclass(frozen=True)
class Condenser(Record):
    """A condenser's record.

    Attributes:
        reads: names of CondenseSettings, beside method and granularity, which all read, and
            repeats, which all read that draw.
        cost: seconds on one core.
        draws: whether another seed gives another result, so that repeats mean something.
        computes: whether its numbers depend on the arithmetic, fast or plain.
    """

    reads: frozenset[str]
    cost: Callable[[cost.Asked], float]
    draws: bool = True
    computes: bool = False


TRIAL = frozenset({"budget", "trial_tasks"})
# A stage is told its layers, as ``fixed``, and its rivals as inputs, whose keys say how they chose.
EVERY = (
    frozenset(f.name for f in fields(CondenseSettings)) - TRIAL - {"fixed_set", "rivals", "args"}
)
IMAGES = frozenset({"images_per_class", "meta_fraction"})
CHOICE = frozenset({"selection", "top_k", "fixed"})
BILEVEL = frozenset({"lookahead", "outer"})  # read under that objective alone
# The meta-network's own.
PHI = BILEVEL | {
    "objective",
    "meta_optimizer",
    "meta_lr",
    "meta_schedule",
    "meta_weight_decay",
    "meta_reach",
}
# The pseudo-descendant's training.
PSEUDO = IMAGES | {"epochs", "batch", "lr", "momentum", "weight_decay", "augment"}

_AT = "evolve.condensers."
CONDENSERS = {
    "meta-network": Condenser(
        _AT + "meta_network.meta_network:meta_network",
        "the paper's, Eq. 16 or bilevel",
        EVERY - {"window"},
        cost.meta_network,
        computes=True,
    ),
    "similarity": Condenser(
        _AT + "similarity:similarity",
        "the meta-network's matching without phi",
        EVERY - {"window"} - PHI,
        cost.similarity,
        computes=True,
    ),
    "cka": Condenser(
        _AT + "cka:cka",
        "CKA of ancestor and pseudo-descendant",
        PSEUDO | CHOICE,
        cost.cka,
        computes=True,
    ),
    "fisher": Condenser(
        _AT + "fisher:fisher",
        "how much predictions depend on a layer's weights",
        IMAGES | {"top_k", "fixed"},
        cost.fisher,
    ),
    "gradient": Condenser(
        _AT + "gradient:gradient",
        "layers whose gradients are stable over tasks",
        frozenset({"window", "top_k", "fixed"}),
        cost.at_once,
        draws=False,
    ),
    "random": Condenser(
        _AT + "controls:random", "layers drawn at random", frozenset({"top_k"}), cost.at_once
    ),
    "fixed": Condenser(
        _AT + "controls:fixed",
        "the layers of fixed_set or fixed",
        frozenset({"fixed"}),
        cost.at_once,
        draws=False,
    ),
    "trial": Condenser(
        _AT + "trial:trial",
        "the set whose descendants learn best",
        TRIAL,
        cost.trial,
        computes=True,
    ),
}
# Nothing is known of another package's.
PLUGGED = Condenser("", "", EVERY, cost.meta_network, computes=True)


def method(name: str) -> Condenser:
    """The record of a condenser; the same one for all of other packages.

    Args:
        name: the condenser's.
    """
    return CONDENSERS.get(name, PLUGGED)


def read(c: CondenseSettings) -> frozenset[str]:
    """The settings that determine a condensation's numbers.

    That is what the method reads, less what it reads only under another setting.

    Args:
        c: the settings of a condensation.
    """
    record = method(c.method)
    names = record.reads | {"method", "granularity"}
    names = names | {"repeats"} if record.draws else names - {"repeats"}
    if c.method not in CONDENSERS:
        return names | {"args"}
    if "selection" in names and c.selection == "threshold":
        names -= {"top_k"}
    if c.objective == "eq16":
        names -= BILEVEL
    if c.meta_optimizer == "adam":
        names -= {"meta_reach"}
    return names
