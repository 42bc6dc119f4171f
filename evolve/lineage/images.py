"""The images that a stage reads: loaded once a process, and those that its recipe was made for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet, load_images
from evolve.engine.devices import choose_device, repeatable


@lru_cache(maxsize=8)
def _images(data: DataSettings, data_dir: Path | None, cache_dir: Path) -> ImageSet:
    # Loading reads and checks all of them, so a batch with several sets keeps them open.
    return load_images(data, data_dir, cache_dir)


@lru_cache(maxsize=1)  # a GPU holds one set
def _load(
    data: DataSettings, data_dir: Path | None, cache_dir: Path, device: str
) -> tuple[Resident, str]:
    images = _images(data, data_dir, cache_dir)
    return Resident(images, repeatable(choose_device(device))), images.fingerprint


def _chosen_data(context: Mapping[str, Any], recipe: Mapping[str, Any]) -> DataSettings:
    """The settings of a recipe's images. A batch may have several sets, by fingerprint.

    An untrained ancestor reads no images but asks for their size.
    """
    held: DataSettings | dict[str, DataSettings] = context["data"]
    if isinstance(held, DataSettings):
        return held
    if "data" in recipe:
        return held[recipe["data"]]
    size = recipe["ancestor"].get("size")
    return next(data for data in held.values() if size in (None, data.size))


def resident_images(context: Mapping[str, Any], recipe: Mapping[str, Any]) -> Resident:
    """Load the images that a recipe reads, once a process.

    Args:
        context: the run's folders, its device and its [data], or of a batch each [data] by
            fingerprint.
        recipe: a stage's recipe.

    Returns:
        The images, ready to be served in batches.

    Raises:
        UserError: the images are not those the recipe was made for.
    """
    data, expected = _chosen_data(context, recipe), recipe.get("data")
    resident, fingerprint = _load(
        data, context["data_dir"], context["cache_dir"], context["device"]
    )
    if expected is not None and fingerprint != expected:
        raise UserError(
            f"data {context['data_dir']}: the images changed while the run was going on; run the "
            "command again"
        )
    return resident
