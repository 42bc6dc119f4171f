"""A scenario file (TOML) -> frozen settings.

Every error names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations

from evolve.condensers import methods as condenser_table
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, Scenario, Settings, descend_source
from evolve.core.shipped import find, shipped
from evolve.core.toml import build, override, read_toml, shown_value, toml_value
from evolve.core.words import PROFILES
from evolve.data.methods import SOURCES
from evolve.learngene.inheritors import size_problem
from evolve.networks.family import architecture


def load(name: str, profile: str = "paper", overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario: its file, then ``[quick]`` if asked, then the overrides.

    Args:
        name: a shipped scenario's name, or the path of a file.
        profile: "paper" or "quick".
        overrides: texts "section.key=value", the later ones win.

    Raises:
        UserError: something does not fit; it names file, key and value.
    """
    path = find("scenario", name)
    table = read_toml(path)
    if profile not in PROFILES:
        raise UserError(f"--profile {profile}: allowed are {', '.join(PROFILES)}")
    stated = table.pop("profile", None)
    if stated is not None and stated not in PROFILES:
        raise UserError(
            f"{path}: profile = {shown_value(stated)}: allowed are {', '.join(PROFILES)} (it says what "
            "the file was resolved for)"
        )
    quick = table.pop("quick", None)
    if quick is None and profile == "quick" and stated != "quick":
        raise UserError(
            f"{path}: has no [quick] tables, so --profile quick would run it in full; add some or "
            "leave --profile out"
        )
    quick = {} if quick is None else quick
    if not isinstance(quick, dict):
        raise UserError(f"{path}: quick = {quick!r}: expected tables such as [quick.ancestor]")
    table.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem))
    settings = build(_defaults(table), table, str(path), "")
    quick_settings = build(settings, quick, str(path), "", shown="quick.")
    if profile == "quick":
        settings = quick_settings
    for text in overrides:
        settings = override(settings, text)
    settings = _placed(settings)
    check(settings, str(path))
    return Scenario(settings, stated or profile, str(path), tuple(overrides))


def _defaults(table: Mapping[str, object]) -> Settings:
    """What counts for keys that a file leaves out: of own images, shares of the classes there are."""
    data = table.get("data")
    source = data.get("source") if isinstance(data, Mapping) else None
    if isinstance(source, str) and source in SOURCES and SOURCES[source].own:
        return Settings(data=DataSettings(split=()))
    return Settings()


def _placed(settings: Settings) -> Settings:
    """Settings whose path means the same file wherever the run is continued."""
    file = settings.ancestor.checkpoint
    place = os.path.abspath(os.path.expanduser(file)) if file else ""
    return replace(settings, ancestor=replace(settings.ancestor, checkpoint=place))


def changes(settings: Settings, profile: str) -> tuple[str, ...]:
    """Where settings differ from the shipped scenario whose name they have.

    Args:
        settings: a run's.
        profile: its profile.

    Returns:
        "section.key=value", values without quotes; nothing where no shipped scenario has the name.
    """
    if settings.name not in shipped("scenario"):
        return ()
    ours = load(settings.name, profile).settings
    return tuple(
        f"{section.name}.{key.name}={_plain(getattr(mine, key.name))}"
        for section in fields(settings)
        if is_dataclass(mine := getattr(settings, section.name))
        for key in fields(mine)
        if getattr(mine, key.name) != getattr(getattr(ours, section.name), key.name)
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else toml_value(value)


def check(settings: Settings, file: str) -> None:
    """Refuse what can be refused before any image is read: what contradicts itself.

    Args:
        settings: a whole scenario.
        file: where it comes from, for the error.

    Raises:
        UserError: it names file, key and value.
    """
    for problem in _problems(settings):
        raise UserError(f"{file}: {problem}")


def _problems(s: Settings) -> Iterator[str]:
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", s.name):
        yield (
            f"name = {shown_value(s.name)}: allowed are letters, digits, '.', '_' and '-' (it names "
            "the run folder)"
        )
    yield from _split_problems(s)
    yield from _network_problems(s)
    if s.stream.tasks == 0 and not (s.ancestor.checkpoint and s.controls.untrained):
        yield (
            "stream.tasks = 0: that is one pretrained ancestor at lineage length 0; give its "
            "ancestor.checkpoint and controls.untrained = true, or tasks"
        )
    yield from _condense_problems(s)
    for room in ("ancestor", "condense", "descend", "fewshot"):
        chosen = getattr(s, room).augment
        source = s.data.source if room == "ancestor" else descend_source(s.data)
        if "flip" in chosen and source == "glyphs":
            yield (
                f"{room}.augment = {list(chosen)}: glyphs are characters and lose their class "
                'when flipped; allowed: ["crop"] or []'
            )


def _condense_problems(s: Settings) -> Iterator[str]:
    if s.condense.repeats > 1 and not condenser_table.method(s.condense.method).draws:
        yield (
            f"condense.repeats = {s.condense.repeats}: method {s.condense.method} draws "
            "nothing, so every repeat would be the same; allowed is 1"
        )
    methods = {s.condense.method, *(s.condense.rivals if s.condense.method == "trial" else ())}
    if "fisher" in methods and s.ancestor.strategy in ("scr", "cope"):
        key = (
            'condense.method = "fisher"'
            if s.condense.method == "fisher"
            else f"condense.rivals = {toml_value(s.condense.rivals)}"
        )
        why = "predicts by distances, not by the head that fisher reads"
        yield f"{key}: a {s.ancestor.strategy} ancestor {why}; choose another"
    rivals = s.condense.rivals
    if "trial" in rivals or len(set(rivals)) < len(rivals):
        shown = toml_value(rivals)
        yield f"condense.rivals = {shown}: expected other condensers than trial, each once"
    if s.condense.args and methods <= condenser_table.CONDENSERS.keys():
        yield (
            f"condense.args = {toml_value(s.condense.args)}: method {s.condense.method} takes "
            f"none, they are a plug-in's; allowed is {{}}"
        )


def _network_problems(s: Settings) -> Iterator[str]:
    ancestor = architecture(s.ancestor.network, s.ancestor.width, s.data.size)
    convs, layers = len(ancestor.layer_names), len(ancestor.integral_layers(s.condense.granularity))
    if max(s.condense.fixed, default=0) > convs:
        yield (
            f"condense.fixed = {list(s.condense.fixed)}: name at least one of the ancestor's "
            f"layers 1 to {convs}"
        )
    if s.condense.top_k > layers:
        yield (
            f"condense.top_k = {s.condense.top_k}: at most {layers}, the ancestor's layers at "
            f"granularity {s.condense.granularity}"
        )
    if s.ancestor.checkpoint and ancestor.family != "vit":
        yield (
            f"ancestor.checkpoint = {shown_value(s.ancestor.checkpoint)}: only a ViT starts from one, "
            f'ancestor.network is {s.ancestor.network}; allowed is ""'
        )
    if problem := size_problem(ancestor, s.inherit):
        yield problem
    if s.controls.distilled and s.inherit.width < 1:
        yield (
            f"controls.distilled = {s.controls.distilled}: the ancestor's features have more "
            f"channels than descendants of inherit.width = {s.inherit.width:g}; allowed is 0"
        )
    if s.inherit.embeddings == "inherited" and not ancestor.carried:
        yield (
            f'inherit.embeddings = "inherited": {s.ancestor.network} has none to inherit; '
            'allowed is "random"'
        )


def _split_problems(s: Settings) -> Iterator[str]:
    roles = {
        "ancestor": s.data.ancestor_classes,
        "condense": s.data.condense_classes,
        "descend": s.data.descend_classes,
    }
    # With two sources every source's ids are its own, and roles need not be listed together.
    two = descend_source(s.data) != s.data.source
    yield from _listing_problems(roles, two)
    yield from _overlap_problems(roles, two)
    if len(s.data.split) not in (0, 3):
        yield (
            f"data.split = {list(s.data.split)}: expected three counts: ancestor, condensing, "
            "descendant classes, or [] for shares of what there is"
        )
        return
    counts = dict(zip(roles, s.data.split, strict=False))
    counts |= {role: len(ids) for role, ids in roles.items() if ids}
    yield from _count_problems(s, counts)


def _listing_problems(roles: Mapping[str, Sequence[int]], two: bool) -> Iterator[str]:
    """What is wrong with a role's list by itself."""
    given = [role for role, ids in roles.items() if ids]
    if given and len(given) < 3 and not two:
        missing = next(role for role in roles if role not in given)
        yield (
            f"data.{missing}_classes is empty: name the classes of all three roles or of none "
            "(then data.split counts are drawn)"
        )
    for role, ids in roles.items():
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            yield f"data.{role}_classes: class {twice[0]} stands there twice; each class once"
        if any(i < 0 for i in ids):
            yield f"data.{role}_classes: class {min(ids)} is negative; allowed are class ids from 0"


def _overlap_problems(roles: Mapping[str, Sequence[int]], two: bool) -> Iterator[str]:
    """Which two roles share a class."""
    for first, second in combinations(roles, 2):
        shared = sorted(set(roles[first]) & set(roles[second]))
        if shared and not (two and first == "ancestor"):
            yield (
                f"data.{second}_classes: class {shared[0]} is also in data.{first}_classes; "
                "the three splits may share no class"
            )


def _count_problems(s: Settings, counts: Mapping[str, int]) -> Iterator[str]:
    """Which tasks ask for more classes than their role has, as far as that is known."""
    for role, (wanted, key) in class_needs(s).items():
        if wanted > counts.get(role, wanted):
            yield f"{key} = {wanted}: at most {counts[role]}, the {role} classes of the split"


def class_needs(s: Settings) -> dict[str, tuple[int, str]]:
    """The classes that a role's tasks ask for, and by which setting.

    Args:
        s: a whole scenario.

    Returns:
        (classes, key) by role.
    """
    tasks = (s.descend.classes_per_task, "descend.classes_per_task")
    needs = {
        "ancestor": (s.stream.classes_per_task, "stream.classes_per_task"),
        "descend": tasks,
    }
    return needs | ({"condense": tasks} if s.condense.method == "trial" else {})
