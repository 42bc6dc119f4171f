"""The door: what other packages bring, who is to blame for it, and that nothing of evolve's is
replaced.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packages import package

from evolve.cli.plugins import print_plugins
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.core import registry
from evolve.core.errors import UserError
from evolve.core.settings import (
    AncestorSettings,
    CondenseSettings,
    DataSettings,
    InheritSettings,
    Settings,
)
from evolve.data.sources import load_images
from evolve.learngene.inheritors import descendant
from evolve.lineage import scenario
from evolve.lineage.recipes import accumulate, condense, descend
from evolve.lineage.world import World
from evolve.networks.family import architecture
from evolve.networks.vgg_plan import VggPlan, vgg16_plan

ANCESTOR = vgg16_plan(1 / 32)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs packages for the length of a test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def add(
        points: dict[str, dict[str, str]],
        module: str = "",
        name: str = "stranger",
        version: str = "1.2",
    ) -> None:
        names.append(name)
        package(tmp_path, name, version, points, module)
        importlib.invalidate_caches()
        registry.plugged.cache_clear()

    yield add
    registry.plugged.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


def refused(call: Callable[[], Any], says: str, package: str = "stranger 1.2") -> None:
    """One line that names the package."""
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and package in str(caught.value)


@pytest.mark.parametrize("kind", sorted(registry.TABLES))
def test_all_of_ours_can_be_had(kind: str) -> None:
    if kind == "strategies":
        from evolve.data.streams import load_avalanche

        load_avalanche()
    for name in registry.records(kind):
        assert callable(registry.find(kind, name)) and registry.origin(kind, name) is None
    with pytest.raises(KeyError):
        registry.find(kind, "nosuch")


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("condensers", "condense.method"),
        ("inheritors", "inherit.method"),
        ("sources", "data.source"),
        ("sources", "data.descend_source"),
        ("strategies", "ancestor.strategy"),
    ],
)
def test_a_scenario_may_name_it_and_nothing_else(
    install: Callable[..., None], kind: str, setting: str
) -> None:
    room, key = setting.split(".")
    with pytest.raises(UserError, match="one of"):
        scenario.load("glyphs-seq25", "quick", [f"{setting}=mine"])
    install({kind: {"mine": "make"}}, "raise RuntimeError('imported')")  # naming it imports nothing
    assert (
        getattr(
            getattr(scenario.load("glyphs-seq25", "quick", [f"{setting}=mine"]).settings, room), key
        )
        == "mine"
    )
    with pytest.raises(UserError, match="mine"):  # errors list it
        scenario.load("glyphs-seq25", "quick", [f"{setting}=nosuch"])


def test_what_cannot_be_imported_is_one_line(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"condensers": {"bad": "make", "none": "absent"}, "sources": {"number": "number"}}
    install(points, "number = 3")
    refused(lambda: registry.find("condensers", "none"), "AttributeError")
    refused(lambda: registry.find("sources", "number"), "is a int where a callable is needed")
    install(
        {"inheritors": {"broken": "make"}}, "raise ValueError('first\\nsecond')", "other", "0.1"
    )
    refused(lambda: registry.find("inheritors", "broken"), r"ValueError: first\)", "other 0.1")
    install({"inheritors": {"exits": "make"}}, "import nosuchmodule", "third", "0.1")
    refused(lambda: registry.find("inheritors", "exits"), "nosuchmodule", "third 0.1")
    print_plugins(check=True)
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("broken", "other 0.1", "stranger 1.2", "meta-network", "vit-small4")
    )


def test_ours_cannot_be_replaced_and_twins_are_refused(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = registry.find("inheritors", "stack")
    install({"inheritors": {"stack": "make", "twin": "make"}}, "make = print")
    assert (
        registry.find("inheritors", "stack") is ours
        and registry.names("inheritors").count("stack") == 1
    )
    assert registry.find("inheritors", "twin") is print
    install({"inheritors": {"twin": "make"}}, "make = print", "other", "0.1")
    refused(lambda: registry.find("inheritors", "twin"), "uninstall all but one")
    refused(lambda: registry.find("inheritors", "twin"), "other 0.1")
    print_plugins(check=False)
    assert "not used: the name is evolve's" in " ".join(capsys.readouterr().out.split())


def test_the_package_and_its_version_are_in_the_keys_of_what_it_computes(
    install: Callable[..., None],
) -> None:
    s = Settings(
        ancestor=AncestorSettings(width=1 / 32, strategy="mine"),
        condense=CondenseSettings(method="mine"),
        inherit=InheritSettings(method="mine"),
    )
    install({kind: {"mine": "make"} for kind in ("condensers", "inheritors", "strategies")})

    def stages() -> list[Any]:
        world = World(s, 0, "00", (1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12))
        before = accumulate(world, 1, accumulate(world, 0, None))
        gene = condense(world, 1, before)
        return [before, gene, descend(world, "inherited", 1, gene)]

    first = stages()
    kinds = ("strategies", "condensers", "inheritors")
    for stage, kind in zip(first, kinds, strict=True):
        assert stage.recipe[f"plugin:{kind}"] == "mine of stranger 1.2"
    registry.plugged.cache_clear()
    (
        next(Path(p) for p in sys.path if (Path(p) / "stranger-1.2.dist-info").exists())
        / "stranger-1.2.dist-info/METADATA"
    ).write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.3\n")
    importlib.invalidate_caches()
    for old, new, kind in zip(first, stages(), kinds, strict=True):
        without = {k: v for k, v in new.recipe.items() if k != "inputs"}
        assert (
            without
            == {k: v for k, v in old.recipe.items() if k != "inputs"}
            | {f"plugin:{kind}": "mine of stranger 1.3"}
            and old.key != new.key
        )


def test_a_result_is_not_computed_by_another_version_than_its_key_names(
    install: Callable[..., None],
) -> None:
    """A thinned snapshot, say, is computed again from its recipe, perhaps after an upgrade."""
    install({"networks": {"mine": "make"}, "condensers": {"own": "make"}})
    nested = {
        "network": {"network": "mine", "plugin:networks": "mine of stranger 1.2"},
        "plugin:condensers": "own of stranger 1.2",
        "seed": 0,
    }
    registry.check_marks(nested)
    registry.check_marks({"network": {"network": "vgg16"}})
    with pytest.raises(
        UserError, match=r"mine of stranger 1\.1 is what .* here it is mine of stranger 1\.2"
    ):
        registry.check_marks({"network": {"plugin:networks": "mine of stranger 1.1"}})
    with pytest.raises(UserError, match="here it is not installed"):
        registry.check_marks({"plugin:condensers": "gone of stranger 1.2"})


DEEP = """
from evolve.condensers.interface import fixed_condensation

def mine(request):
    return fixed_condensation(request, f"depth {request.c.args['depth']}")
"""


def test_a_condensers_own_settings_reach_it_and_its_key(install: Callable[..., None]) -> None:
    install({"condensers": {"mine": "mine"}}, DEEP)
    words = ["condense.method=mine", "condense.args.depth=3", "condense.args.mode=fast"]
    settings = scenario.load("glyphs-seq25", "quick", words).settings
    assert (
        condense_ancestor(
            replace(request("mine"), c=replace(CondenseSettings(method="mine"), args={"depth": 3}))
        ).selected_by
        == "depth 3"
    )

    def recipe(given: Settings) -> dict[str, Any]:
        world = World(given, 0, "00", (1, 2, 3, 4, 5), (6, 7), (8, 9, 10, 11, 12))
        return dict(condense(world, 1, accumulate(world, 0, None)).recipe["condense"])

    assert recipe(settings)["args"] == {"depth": 3, "mode": "fast"}
    assert recipe(scenario.load("glyphs-seq25", "quick", words[:1]).settings)["args"] == {}
    with pytest.raises(UserError, match=r"condense\.args = \{ depth = 3 \}: method cka takes none"):
        scenario.load("glyphs-seq25", "quick", ["condense.method=cka", "condense.args.depth=3"])


# What a plug-in returns


def request(method: str) -> Request:
    model = ANCESTOR.build(2)
    return Request(
        ANCESTOR,
        model.state_dict(),
        {},
        (0, 1),
        None,
        CondenseSettings(method=method),
        0,
        lambda f, t: None,
    )  # type: ignore[arg-type]


GOOD = """
import torch
from dataclasses import replace
from evolve.condensers.interface import Condensed, fixed_condensation

def good(request):
    return Condensed(torch.rand(13, 1), torch.rand(13), torch.rand(13), (0, 12), 0.1, "selected", "mine", {{}})

def bad(request):
    return {what}
"""


def test_a_good_condenser_is_taken_as_it_is(install: Callable[..., None]) -> None:
    install(
        {"condensers": {"good": "good", "fixed-set": "bad"}},
        GOOD.format(what="fixed_condensation(request, 'x')"),
    )
    assert condense_ancestor(request("good")).selected == (0, 12)
    assert condense_ancestor(request("fixed-set")).selected == (0, 10, 11, 12)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("None", "returned NoneType, not a Condensed"),
        ("[1, 2]", "returned list"),
        ("replace(good(request), alpha=torch.rand(12, 1))", r"alpha of shape \(12, 1\), not 13xK"),
        ("replace(good(request), alpha=torch.rand(13))", r"alpha of shape \(13,\)"),
        (
            "replace(good(request), alpha=torch.full((13, 1), float('nan')))",
            "alpha with values that are not finite",
        ),
        ("replace(good(request), scores=[0.0] * 13)", "scores as list"),
        ("replace(good(request), weights=torch.full((13,), float('inf')))", "weights with values"),
        ("replace(good(request), selected=(0, 13))", "positions from 0 to 12"),
        ("replace(good(request), selected=(-1, 3))", "positions from 0 to 12"),
        ("replace(good(request), selected=(3, 3))", "ascending"),
        ("replace(good(request), selected=())", "at least one"),
        ("replace(good(request), selected=('conv1',))", "ascending positions"),
        ("replace(good(request), selected=(True, 3))", "ascending positions"),
        ("replace(good(request), status='great')", "status 'great'"),
        ("1 / 0", "ZeroDivisionError.*stranger.py, line 10"),
        ("request.nosuch", "AttributeError"),
    ],
)
def test_a_condensers_nonsense_is_named(install: Callable[..., None], what: str, says: str) -> None:
    install({"condensers": {"bad": "bad"}}, GOOD.format(what=what))
    refused(lambda: condense_ancestor(request("bad")), says)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("None", "returned NoneType, not an Architecture"),
        ("ancestor.stacked(['conv99'])", "ValueError: no such layers"),
        ("ancestor.whole()", "lets conv2 inherit conv2; the learngene holds conv1, conv13"),
        (
            "ancestor.with_inherited({'conv5': {'conv13': 1.0}})",
            "lets conv5 inherit conv13, whose shapes differ",
        ),
        ("type('Own', (type(ancestor),), {'to_json': lambda self: []})(ancestor)", "not a plan"),
        (
            "type('Own', (type(ancestor),), {'to_json': lambda self: "
            "ancestor.stacked(['conv1']).to_json()})(ancestor)",
            "does not come back equal",
        ),
    ],
)
def test_an_inheritors_nonsense_is_named(
    install: Callable[..., None], what: str, says: str
) -> None:
    install(
        {"inheritors": {"bad": "bad", "good": "good"}},
        f"def bad(ancestor, selected):\n    return {what}\ngood = lambda a, s: a.stacked(s[1:])",
    )
    refused(lambda: descendant(ANCESTOR, ["conv1", "conv13"], InheritSettings(method="bad")), says)
    assert descendant(
        ANCESTOR, ["conv1", "conv13"], InheritSettings(method="good")
    ) == ANCESTOR.stacked(["conv13"])


NETWORK = """
from evolve.networks.vgg_plan import VggPlan, plan_from_json, vgg16_plan

class Own(VggPlan):
    family = "own"
    def to_json(self):
        return {"family": "own", "plan": super().to_json()}

def good(width, size):
    if size < 16:
        raise ValueError("16 pixels at least")
    return Own(vgg16_plan(width)[:3])

def bad(width, size):
    return vgg16_plan(width)[0]

def read(value):
    return Own(plan_from_json(value["plan"]))
"""


def test_a_network_comes_back_from_its_json(install: Callable[..., None]) -> None:
    install({"networks": {"good": "good", "bad": "bad"}, "families": {"own": "read"}}, NETWORK)
    plan = architecture("good", 1 / 32, 32)
    assert (
        plan.family == "own"
        and plan == VggPlan(ANCESTOR[:3])
        and plan.build(2)(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    )
    with pytest.raises(UserError, match="data.size = 8: 16 pixels at least"):
        architecture("good", 1 / 32, 8)
    refused(lambda: architecture("bad", 1, 32), "returned tuple, not an Architecture")


def test_a_network_without_its_family_is_refused(install: Callable[..., None]) -> None:
    install({"networks": {"good": "good"}}, NETWORK)
    refused(
        lambda: architecture("good", 1 / 32, 32),
        "not an architecture of a family that is known here",
    )


STRATEGY = """
from avalanche.training.plugins import SupervisedPlugin

class Good(SupervisedPlugin):
    def __init__(self, step=1):
        super().__init__()
        self.step = step

    def state(self):
        return {}, {"step": self.step}

bad = dict
"""


def test_a_strategy_is_completed_and_its_nonsense_named(install: Callable[..., None]) -> None:
    from evolve.data.streams import load_avalanche

    load_avalanche()
    from evolve.ancestor.strategies.plugin_check import foreign_plugin

    install({"strategies": {"good": "Good", "bad": "bad"}}, STRATEGY)
    plugin = foreign_plugin("good", {"step": 4})
    assert (
        plugin.state() == ({}, {"step": 4}) and plugin.running() == {}
    )  # its own, and what it lacked
    plugin.attach(None)
    plugin.restore({}, {}, None)
    refused(lambda: foreign_plugin("good", {"pace": 4}), "TypeError.*pace")
    refused(lambda: foreign_plugin("bad", {}), "returned dict, not an Avalanche plugin")


SOURCE = """
import numpy as np
from dataclasses import replace
from evolve.data.cache import Decoded, Prepared

LABELS = np.array([0, 0, 1, 1])
GOOD = Decoded(np.zeros((4, 8, 8, 3), np.uint8), LABELS, np.array([False, True, False, True]), ("a", "b"))

def good(data, folder):
    return Prepared({"source": "good"}, lambda report: GOOD, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

def bad(data, folder):
    return %s

def over(**changes):
    return replace(good(None, None), identity={"source": "bad"}, decode=lambda report: replace(GOOD, **changes))
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("3", "returned int, not a Prepared"),
        ("open('/nosuch')", "FileNotFoundError"),
        ("replace(over(), decode=lambda report: 3)", "decoded to int"),
        ("replace(over(), decode=lambda report: 1 / 0)", "ZeroDivisionError"),
        ("over(pixels=np.zeros((4, 8, 8, 3)))", "pixels float64"),
        ("over(pixels=np.zeros((4, 9, 8, 3), np.uint8))", r"not uint8 \(4, 8, 8, 3\)"),
        ("over(labels=LABELS.astype(float))", "labels that are no array of int64"),
        ("over(labels=LABELS + 1)", "not all from 0 to 1"),
        ("over(is_test=LABELS)", "is_test that are no array of bool"),
    ],
)
def test_a_sources_nonsense_is_named(
    install: Callable[..., None], tmp_path: Path, what: str, says: str
) -> None:
    install({"sources": {"bad": "bad", "good": "good"}}, SOURCE % what)
    settings = DataSettings(source="bad", size=8)
    refused(lambda: load_images(settings, None, tmp_path / "cache"), says)
    image_set = load_images(replace(settings, source="good"), None, tmp_path / "cache")
    assert (
        image_set.images.shape == (4, 3, 8, 8)
        and np.array_equal(image_set.labels, [0, 0, 1, 1])
        and image_set.mean == (0.5, 0.5, 0.5)
    )
