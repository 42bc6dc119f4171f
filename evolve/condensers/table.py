"""Which [condense] settings each of our condensers reads, and what else its stage's key has to know. Imports no torch.

A setting that a method does not read must not change the key of its stage: two scenarios that differ in it alone share the result.
``tests/test_lineage_keys.py`` runs every condenser on settings that record what is read of them, and compares with this table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from evolve.core.settings import CondenseSettings


@dataclass(frozen=True)
class Method:
    """``reads``: names of CondenseSettings, beside method and granularity, which all read, and repeats, where the method draws. ``draws``: whether another seed finds
    another result, so that repeats mean something. ``computes``: whether its numbers depend on the arithmetic, fast or plain.
    """

    reads: frozenset[str]
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
PHI = BILEVEL | {"objective", "meta_optimizer", "meta_lr", "meta_schedule", "meta_weight_decay", "meta_reach"}
PSEUDO = IMAGES | {"epochs", "batch", "lr", "momentum", "weight_decay", "augment"}  # the pseudo-descendant's training

TABLE = {
    "meta-network": Method(EVERY - {"window"}, computes=True),
    "similarity": Method(EVERY - {"window"} - PHI, computes=True),
    "cka": Method(PSEUDO | CHOICE, computes=True),
    "fisher": Method(IMAGES | {"top_k", "fixed"}),
    "gradient": Method(frozenset({"window", "top_k", "fixed"}), draws=False),
    "random": Method(frozenset({"top_k"})),
    "fixed": Method(frozenset({"fixed"}), draws=False),
    "trial": Method(TRIAL, computes=True),
}
PLUGGED = Method(EVERY, computes=True)  # nothing is known of another package's


def method(name: str) -> Method:
    """What is known of a condenser."""
    return TABLE.get(name, PLUGGED)


def read(c: CondenseSettings) -> frozenset[str]:
    """The settings that determine a condensation's numbers under ``c``: what the method reads, less what only another setting would have it read."""
    known = method(c.method)
    names = known.reads | {"method", "granularity"}
    names = names | {"repeats"} if known.draws else names - {"repeats"}
    if c.method not in TABLE:
        return names | {"args"}
    if "selection" in names and c.selection == "threshold":
        names -= {"top_k"}
    if c.objective == "eq16":
        names -= BILEVEL
    if c.meta_optimizer == "adam":
        names -= {"meta_reach"}
    return names
