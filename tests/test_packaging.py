"""What `pip install` gives a user: all that the checkout has."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (".py", ".toml", ".json", ".html", ".css", ".js")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    for name in ("evolve", "scenarios", "benchmarks"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(place / "out"),
        str(place),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next((place / "out").glob("*.whl"))) as archive:
        archive.extractall(place / "unpacked")
    return place / "unpacked"


def test_the_wheel_holds_every_module_scenario_batch_and_page_part(wheel):
    here = {
        path.relative_to(ROOT) for path in (ROOT / "evolve").rglob("*") if path.suffix in NEEDED
    }
    here |= {
        Path("evolve") / path.relative_to(ROOT)
        for name in ("scenarios", "benchmarks")
        for path in (ROOT / name).rglob("*")
        if path.suffix in NEEDED
    }
    by_hand = {
        Path("evolve/benchmarks/cluster"),
        Path("evolve/benchmarks/ablations"),
    }  # from a checkout
    scripts = {path for path in here if path.suffix == ".py" and path.parent in by_hand}
    assert here - scripts - {path.relative_to(wheel) for path in wheel.rglob("*")} == set()


def test_an_installed_evolve_knows_the_shipped_batches_and_scenarios(wheel, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    for command, expected in ((("batch", "list"), "condensers"), (("scenarios",), "glyphs-seq25")):
        done = subprocess.run(
            [sys.executable, "-m", "evolve.cli", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout


def test_the_conda_environment_has_what_setup_cfg_requires():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = {
        line.partition(";")[0].strip() for line in setup["options"]["install_requires"].split("\n")
    }
    conda = {"pytorch": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's names
    lines = re.findall(r"^ +- (.+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    named = {re.sub(r"^[\w-]+", lambda name: conda.get(name[0], name[0]), line) for line in lines}
    python = f"python{setup['options']['python_requires']}"
    assert named - {"pip", "pip:", "--editable ."} == required - {""} | {python}
