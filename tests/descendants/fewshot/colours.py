"""An easy few-shot problem: 27 classes told apart by their colour alone.

They have 16 pixels, 24 training images and 10 test images each.
"""

from functools import lru_cache

import numpy as np
import torch

from evolve.core.fewshot_settings import FewshotSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.fewshot.course import Course
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.measure import meta_train_and_measure
from evolve.descendants.trainers.group import DownstreamTask
from evolve.networks.family import architecture
from evolve.networks.network import Network, initialise
from evolve.runs.estimate.timing import NoCheckpoint, silent

SIZE, TRAIN, TEST = 16, 24, 10
ANCESTOR = tuple(c for c in range(27) if c % 3)  # 18 classes
DESCEND = tuple(c for c in range(27) if c % 3 == 0)  # 9 others
WAYS = 4

QUICK = FewshotSettings(
    episodes=40,
    shots=3,
    queries=5,
    augment=(),
    lr=0.01,
    meta_batch=2,
    inner_lr=0.1,
    inner_steps=2,
    test_steps=10,
    boil_lr=0.2,
    reptile_lr=0.01,
    reptile_steps=4,
    reptile_test_steps=20,
    pretrain_epochs=8,
    pretrain_lr=0.05,
    tune_lr=0.1,
    tune_batch=8,
    mtl_lr=0.5,
    mtl_steps=20,
    emd_steps=5,
    # 32 channels have short descriptors, and the gradient of a cosine grows as they shrink
    emd_lr=1.0,
)


@lru_cache(maxsize=1)
def resident() -> Resident:
    """All images: a class's colour, plain, plus noise of each pixel."""
    draw = np.random.default_rng(0)
    count = TRAIN + TEST
    colours = np.stack(np.meshgrid(*[np.array([50, 130, 210])] * 3, indexing="ij"), -1).reshape(
        27, 3
    )
    images = np.repeat(colours, count, 0)[:, :, None, None] + draw.normal(
        0, 25, (27 * count, 3, SIZE, SIZE)
    )
    labels = np.repeat(np.arange(27), count)
    is_test = np.tile(np.arange(count) >= TRAIN, 27)
    names = tuple(f"colour {c}" for c in range(27))
    image_set = ImageSet(
        "colours",
        images.clip(0, 255).astype(np.uint8),
        labels,
        is_test,
        names,
        "c",
        (0.5,) * 3,
        (0.25,) * 3,
    )
    return Resident(image_set, torch.device("cpu"))


def task(number: int, shots: int = 5) -> DownstreamTask:
    """A task of WAYS descend classes, chosen by number, with so many shots."""
    classes = tuple(DESCEND[(number + 2 * place) % len(DESCEND)] for place in range(WAYS))
    train = [resident().indices(c, test=False)[:shots] for c in classes]
    test = [resident().indices(c, test=True) for c in classes]
    labels = torch.arange(WAYS)
    return DownstreamTask(
        classes,
        torch.cat(train),
        torch.cat(test),
        labels.repeat_interleave(shots),
        labels.repeat_interleave(TEST),
    )


def network(width: float = 1 / 16) -> Network:
    """The paper's descendant, tiny."""
    model = architecture("vgg16", width, SIZE).paper_descendant().build(WAYS)
    initialise(model, 0, "test")
    return model


def course() -> Course:
    """A meta-training from its start, that keeps nothing."""
    return Course(NoCheckpoint())


def measure(
    name,
    state,
    classes,
    tasks,
    settings,
    seed=0,
    progress=silent,
    checkpoint=None,
    images_per_class=0,
):
    """meta_train_and_measure on these images."""
    source = Episodes(resident(), classes, WAYS, settings, seed, images_per_class)
    return meta_train_and_measure(
        name, state, source, tasks, progress, checkpoint or NoCheckpoint()
    )
