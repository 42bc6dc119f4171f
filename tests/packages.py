"""Installed packages for the tests of plug-ins: what pip leaves behind of a pure one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def package(
    folder: Path, name: str, version: str, points: Mapping[str, Mapping[str, str]], module: str
) -> None:
    """Install a package of one module, without pip.

    Args:
        folder: where it is installed.
        name: the package's and the module's name.
        version: its version.
        points: entry points by group, such as {"condensers": {"widest": "function"}}.
        module: the module's text.
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
