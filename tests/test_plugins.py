"""docs/plugins.md taken at its word: its package is installed by pip and a lineage runs with all it
brings, worker processes included.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import Done, environment, evolve_process
from packages import package

from evolve.core.errors import UserError
from evolve.engine.store import Result, Store
from evolve.learngene.learngene import load

PAGE = (Path(__file__).parent.parent / "docs/plugins.md").read_text(encoding="utf-8")

# What the page's package does not bring: a network with a family of its own, and a strategy that
# carries something from task to task.
MORE = """
from evolve.networks.vgg_plan import VggPlan, plan_from_json, vgg16_plan

class Short(VggPlan):
    family = "short"
    def stacked(self, selected):
        return Short(super().stacked(selected))
    def with_inherited(self, inherited):
        return Short(super().with_inherited(inherited))
    def anonymous(self):
        return Short(super().anonymous())
    def named_set(self, name, count):
        return (0, 6)
    def to_json(self):
        return {"family": "short", "plan": super().to_json()}

def network(width, size):
    return Short(vgg16_plan(width)[:3])

def read(value):
    return Short(plan_from_json(value["plan"]))

def fails(request):
    return 1 / 0

def counting(step):
    import torch
    from avalanche.training.plugins import SupervisedPlugin

    class Counting(SupervisedPlugin):
        seen = torch.zeros(1)
        def before_training_exp(self, strategy, **kwargs):
            self.seen = self.seen + step
        def state(self):
            return {"seen": self.seen}, {"tasks": int(self.seen) // step}
        def restore(self, tensors, meta, strategy):
            self.seen = tensors["seen"]

    return Counting()
"""

SCENARIO = tiny.toml(
    {
        "data.source": "stripes",
        "stream.classes_per_task": 2,
        "ancestor.network": "short",
        "ancestor.strategy": "counting",
        "ancestor.strategy_args.step": 3,
        "condense.method": "widest",
        "condense.selection": "top-k",
        "condense.top_k": 4,
        "inherit.method": "deeper-half",
        "descend.classes_per_task": 2,
        "controls.shuffled": 0,
    }
)


def example() -> dict[str, str]:
    """The page's files by name."""
    files = re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in files] == ["pyproject.toml", "evolve_stripes.py"]
    return dict(files)


def evolve(folder: Path, *words: str) -> Done:
    """In processes of their own: this one keeps what it has loaded, and the packages are not to be
    seen in it.
    """
    places = os.pathsep.join([str(folder / "site"), environment()["PYTHONPATH"]])
    return evolve_process(*words, cwd=folder, env={"PYTHONPATH": places}, pictures=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages in site/, and a finished run with them, runs/a."""
    place = tmp_path_factory.mktemp("plugins")
    source = place / "evolve-stripes"
    source.mkdir()
    for name, text in example().items():
        (source / name).write_text(text)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*pip, "--target", str(place / "site"), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    points = {
        "networks": {"short": "network"},
        "families": {"short": "read"},
        "strategies": {"counting": "counting"},
        "condensers": {"fails": "fails"},
    }
    package(place / "site", "evolve_more", "2.1", points, MORE)
    (place / "tiny.toml").write_text(SCENARIO)
    done = evolve(place, "run", "--scenario", "tiny.toml", "--out", "runs/a", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return place


def results(folder: Path, kind: str) -> list[Result]:
    store = Store(folder / "runs/store")
    return [
        result
        for path in (folder / "runs/store/results" / kind).glob("*/*")
        if (result := store.get(path.name))
    ]


def test_the_example_is_of_forty_lines() -> None:
    assert (
        sum(bool(line.strip()) for text in example().values() for line in text.splitlines()) <= 40
    )


def test_keys_name_the_packages_and_their_versions(folder: Path) -> None:
    def plugged(result: Result) -> dict[str, Any]:
        return {
            name: value
            for name, value in result.manifest["recipe"].items()
            if name.startswith("plugin:")
        }

    network = {"plugin:networks": "short of evolve_more 2.1"}
    strategy = {"plugin:strategies": "counting of evolve_more 2.1"}
    for result in results(folder, "accumulate"):
        assert plugged(result) == ({} if result.record["task"] == 0 else strategy)
        assert result.manifest["recipe"]["ancestor"].items() >= network.items()
    condensed = results(folder, "condense")
    assert len(condensed) == 3
    for result in condensed:
        assert (
            plugged(result) == {"plugin:condensers": "widest of evolve-stripes 1.0"}
            and result.manifest["recipe"]["network"].items() >= network.items()
        )
    inherited = [
        result
        for result in results(folder, "descend")
        if result.manifest["recipe"]["method"] == "inherited"
    ]
    assert len(inherited) == 3
    assert all(
        plugged(result) == {"plugin:inheritors": "deeper-half of evolve-stripes 1.0"}
        for result in inherited
    )


def test_the_condenser_chose_and_the_inheritor_passed_on(folder: Path) -> None:
    """Against the ancestor in the store, by the page's own words."""
    for result in results(folder, "condense"):
        store = Store(folder / "runs/store")
        before = store.get(result.manifest["recipe"]["inputs"]["ancestor"])
        assert before is not None
        state = before.tensors("ancestor")
        spread = {
            n: float(state[f"model.trunk.layers.conv{n}.conv.weight"].std()) for n in range(1, 8)
        }
        chosen = [f"conv{n}" for n in sorted(sorted(spread, key=lambda n: -spread[n])[:4])]
        assert result.record["layers"] == chosen and result.record["status"] == "selected"
        heirs = [
            heir
            for heir in results(folder, "descend")
            if heir.manifest["recipe"]["inputs"] == {"learngene": result.manifest["key"]}
        ]
        given = [spec["inherits"] for block in heirs[0].record["plan"]["plan"] for spec in block]
        assert [name for name in given if name] == chosen[2:]


def test_the_strategys_state_went_from_task_to_task(folder: Path) -> None:
    by_task = {result.record["task"]: result for result in results(folder, "accumulate")}
    assert {task: result.record.get("strategy") for task, result in by_task.items()} == {
        0: None,
        1: {"tasks": 1},
        2: {"tasks": 2},
    }
    assert torch.equal(by_task[2].tensors("ancestor")["strategy.seen"], torch.tensor([6.0]))


def test_the_images_are_the_pages(folder: Path) -> None:
    assert {
        tuple(row) for result in results(folder, "descend") for row in result.record["classes"]
    } <= {(a, b) for a in range(24) for b in range(24)}
    assert [
        path.name.split("-")[0]
        for path in (folder / "runs/store/images").iterdir()
        if path.is_dir()
    ] == ["stripes"]


def test_it_is_listed_where_it_is_installed_and_missed_where_not(folder: Path) -> None:
    listed = evolve(folder, "plugins", "--check").stdout
    for name, owner in (
        ("widest", "evolve-stripes 1.0"),
        ("deeper-half", "evolve-stripes 1.0"),
        ("stripes", "evolve-stripes 1.0"),
        ("short", "evolve_more 2.1"),
    ):
        assert re.search(rf"{name} +{owner} +good", listed), listed
    with pytest.raises(
        UserError, match="not an architecture of a family that is known here"
    ):  # the package is not installed in this process
        load(folder / "runs/a/learngenes/lineage-02.safetensors")


def test_to_list_and_to_look_import_no_plug_in(folder: Path) -> None:
    """A module that says so when it is imported, in a place of its own."""
    (folder / "loud").mkdir()
    loud = "import pathlib; pathlib.Path('imported').touch()\n" + MORE
    points = {"networks": {"short": "network"}, "families": {"short": "read"}}
    package(folder / "loud", "evolve_loud", "1.0", points, loud)
    gene = str(folder / "runs/a/learngenes/lineage-02.safetensors")

    def quietly(*words: str) -> Done:
        places = os.pathsep.join([str(folder / "loud"), environment()["PYTHONPATH"]])
        return evolve_process(*words, cwd=folder, env={"PYTHONPATH": places}, pictures=False)

    listed = quietly("plugins").stdout
    assert re.search(r"short +evolve_loud 1.0 +not imported", listed), listed
    seen = quietly("inspect", gene)
    assert seen.returncode == 2 and "evolve_loud 1.0" in seen.stderr and "--plugins" in seen.stderr
    assert not (folder / "imported").exists()


@pytest.mark.slow
def test_what_fails_in_a_worker_ends_the_run_with_one_line(folder: Path) -> None:
    done = evolve(
        folder,
        "run",
        "--scenario",
        "tiny.toml",
        "--workers",
        "1",
        "--out",
        "runs/b",
        "--set",
        "condense.method=fails",
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("evolve:")]
    assert (
        "plug-in 'fails'" in line
        and "evolve_more 2.1" in line
        and "ZeroDivisionError" in line
        and "Traceback" not in done.stderr
    )
