"""What is measured: the cases, their settings and their goals.

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, Settings
from evolve.lineage import scenario
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture

DATA = DataSettings(source="glyphs", size=32, glyph_train=64, glyph_test=2)
"""Embedded images, few of them: speed does not depend on what they show. 100 classes."""
ANCESTOR_CLASSES, CONDENSE_CLASSES, DESCEND_CLASSES = range(64), range(64, 80), range(80, 100)
# Other networks, and the widths of their descendants beside the quick profile's and 1.
OTHERS: dict[str, tuple[float, ...]] = {"resnet": (0.25,), "vit": ()}
# Of the machine's sgemm rate on one thread, for descendants at full width.
SHARE_TARGET, SHARE_AIM = 0.80, 0.90


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name, title: in words.
        kind: "descendants", "ancestor", "tests" (of the ancestor), "condenser", "objectives" or
            "overhead".
        settings: what is learned, and how.
        goals: per device (target, aim) of the ratio ours / baseline; of the overhead case, shares
            of an iteration.
        together: in a lineage this work runs in every process at once; else it is a serial chain,
            and one process does it.
        busy: with one core taken by another program.
        share_goal: whether the share of sgemm has a goal, too.
        network: what descendants train; None: the paper's descendant.
        cpu_time: CPU seconds are compared. Then the baseline has no loader processes, which save
            waiting but no work.
    """

    name: str
    title: str
    kind: str
    settings: Settings
    goals: Mapping[str, tuple[float, float | None]]
    together: bool = False
    busy: bool = False
    share_goal: bool = False
    network: Architecture | None = None
    cpu_time: bool = False

    @property
    def plan(self) -> Architecture:
        """The network that trains.

        It is the descendant, the condenser's pseudo-descendant or the ancestor.
        """
        if self.network is not None:
            return self.network
        small = self.kind in ("descendants", "condenser", "objectives")
        return self.ancestor.paper_descendant() if small else self.ancestor

    @property
    def ancestor(self) -> Architecture:
        """The ancestor's network."""
        a = self.settings.ancestor
        return architecture(a.network, a.width, self.settings.data.size)


def all_cases(quick: bool) -> list[Case]:
    """Every case, in the order of the table.

    Args:
        quick: fewer images, for a smoke test and not for quoting.
    """
    full, tiny, glyphs = _learning(quick)
    others = [case for name in OTHERS for case in _network_cases(name, quick)]
    return [*_descendant_cases(full, tiny, glyphs), *others, *_chain_cases(tiny, glyphs)]


def _learning(quick: bool) -> tuple[Settings, Settings, Settings]:
    """Settings at full width, at width 1/4 and at width 1/8."""
    glyphs, tiny, full = (
        _settings("glyphs-seq25", "quick"),
        _settings("tinyimagenet-seq25", "quick"),
        _settings("cifar-seq25", "paper"),
    )
    full = replace(full, descend=replace(full.descend, shots=40))
    if quick:
        full, tiny, glyphs = (
            replace(s, descend=replace(s.descend, shots=16, descendants=2))
            for s in (full, tiny, glyphs)
        )
        full = replace(full, descend=replace(full.descend, shots=8, descendants=1))
        glyphs = replace(
            glyphs,
            condense=replace(glyphs.condense, images_per_class=12),
            stream=replace(glyphs.stream, images_per_class=32),
        )
    return full, tiny, glyphs


def _descendant_cases(full: Settings, tiny: Settings, glyphs: Settings) -> list[Case]:
    large = {"cpu": (1.8, 2.5), "cuda": (20.0, 40.0)}
    small = {"cpu": (2.5, 4.0), "cuda": (20.0, 40.0)}
    return [
        Case(
            "descendants-full",
            "descendants, full width",
            "descendants",
            full,
            large,
            together=True,
            share_goal=True,
        ),
        Case(
            "descendants-busy",
            "... with one core taken",
            "descendants",
            full,
            {"cpu": (4.0, None)},
            together=True,
            busy=True,
        ),
        Case(
            "descendants-quarter",
            "descendants, width 1/4",
            "descendants",
            tiny,
            small,
            together=True,
        ),
        Case(
            "descendants-eighth",
            "descendants, width 1/8",
            "descendants",
            glyphs,
            small,
            together=True,
        ),
    ]


def _network_cases(name: str, quick: bool) -> list[Case]:
    """A network's at the width of its quick profile, and its descendants at other widths."""
    small, full = (_settings(f"cifar-seq25-{name}", profile) for profile in ("quick", "paper"))
    shots, descendants = (8, 1) if quick else (40, full.descend.descendants)
    full = replace(full, descend=replace(full.descend, shots=shots, descendants=descendants))
    if quick:
        small = replace(
            small,
            descend=replace(small.descend, descendants=2),
            condense=replace(small.condense, images_per_class=12),
            stream=replace(small.stream, images_per_class=32),
        )
    others = {width: _of_width(small, width) for width in OTHERS[name]} | {1.0: full}
    goals = {"cpu": (2.0, 4.0)}

    def case(kind: str, s: Settings, word: str = "", **more: Any) -> Case:
        title = f"{name}: {kind}, width {s.ancestor.width:g}"
        return Case(f"{name}-{kind}{word}", title, kind, s, **{"goals": {}, **more})

    return [
        case("descendants", small, goals=goals, together=True),
        *(case("descendants", s, f"-{width:g}", together=True) for width, s in others.items()),
        case("ancestor", small, goals={"cpu": (1.3, 2.0)}),
        case("condenser", bilevel(small), together=True),
    ]


def _of_width(s: Settings, width: float) -> Settings:
    return replace(s, ancestor=replace(s.ancestor, width=width))


def _chain_cases(tiny: Settings, glyphs: Settings) -> list[Case]:
    """The ancestor's and the condenser's."""
    eq16 = replace(
        tiny,
        condense=replace(
            tiny.condense,
            objective="eq16",
            batch=32,
            meta_batch=16,
            images_per_class=60,
            meta_reach=0.0,
        ),
    )
    return [
        Case("ancestor", "ancestor, width 1/8", "ancestor", glyphs, {"cuda": (6.0, 12.0)}),
        Case(
            "overhead",
            "ancestor: template and loader",
            "overhead",
            glyphs,
            {"cpu": (0.05, None), "cuda": (0.05, None)},
        ),
        Case(
            "condenser",
            "condenser, bilevel, width 1/8",
            "condenser",
            bilevel(glyphs),
            {"cpu": (1.5, 2.0)},
            together=True,
        ),
        Case(
            "eq16",
            "condenser, Eq. 16 beside bilevel, width 1/4",
            "objectives",
            eq16,
            {"cpu": (4.0, None)},
            together=True,
        ),
    ]


def choose_cases(only: Sequence[str], quick: bool, device: str) -> list[Case]:
    """The cases that make sense on a device.

    Args:
        only: names of cases; none: all.
        quick: fewer images.
        device: "cpu" or "cuda".

    Raises:
        UserError: a name is not one of them.
    """
    cases = [case for case in all_cases(quick) if device == "cpu" or not case.busy]
    names = [case.name for case in cases]
    for name in only:
        if name not in names:
            raise UserError(
                f"--only {name}: no such case on {device}; there are {', '.join(names)}"
            )
    return [case for case in cases if not only or case.name in only]


def bilevel(s: Settings) -> Settings:
    """The condenser as the authors' code trains phi."""
    c = replace(s.condense, objective="bilevel", meta_optimizer="adam", meta_schedule="constant")
    return replace(s, condense=replace(c, meta_lr=3e-3, meta_weight_decay=1e-4))


def _settings(name: str, profile: str) -> Settings:
    """A shipped profile with the small image set; where it asks for more test images than there
    are, one a class is tested.
    """
    s = scenario.load(name, profile).settings
    shots = min(s.descend.shots, DATA.glyph_train)
    return replace(s, data=DATA, descend=replace(s.descend, shots=shots, test_per_class=1))
