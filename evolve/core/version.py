"""The version of evolve."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"
# what can change a bit of a result, beside evolve
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "timm", "avalanche-lib")


def versions() -> dict[str, str]:
    """The version of all that may change a bit of a result; "none" for what is not installed."""
    return {"evolve": __version__} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
