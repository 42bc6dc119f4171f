"""The version of evolve."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "timm",
    "avalanche-lib",
)  # what can change a bit, beside ourselves


def versions() -> dict[str, str]:
    """Of everything that may change a bit of a result; "none" for what is not installed."""
    return {"evolve": __version__} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
