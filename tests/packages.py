"""Installed packages for the tests of the door: what pip leaves behind of a pure one, without pip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def package(
    folder: Path, name: str, version: str, points: Mapping[str, Mapping[str, str]], module: str
) -> None:
    """``module`` as ``name``.py in ``folder``, with entry points by group ("condensers": {"widest":
    "function"}).
    """
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[evolve.{kind}]\n" + "\n".join(f"{own} = {name}:{what}" for own, what in named.items())
        for kind, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.py").write_text(module)
