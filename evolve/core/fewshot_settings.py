"""[fewshot]: the few-shot learners of the paper's Table III and their papers' hyperparameters. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.core.setting import MANY, RATE, STEPS, WEIGHT, setting

AUGMENTATIONS = ("crop", "flip")


@dataclass(frozen=True)
class FewshotSettings:
    """[fewshot]: meta-training on episodes of the ancestor's classes, with as many classes each as a downstream task has (Table III).

    All ancestor classes, even those that the stream never drew; stream.images_per_class images of each, the ancestor's own.
    """

    learners: tuple[str, ...] = setting(
        (),
        "few-shot learners to compare with, on the paper's descendant, meta-trained on all ancestor classes whatever the stream drew; empty: none",
        registry="learners",
        key=False,
    )
    episodes: int = setting(40_000, "episodes of meta-training", least=1, most=10 * MANY)
    shots: int = setting(5, "support images a class in an episode", least=1, most=MANY)
    queries: int = setting(15, "query images a class in an episode", least=1, most=MANY)
    augment: tuple[str, ...] = setting(("crop",), "augmentations of meta-training", choices=AUGMENTATIONS)
    lr: float = setting(1e-3, "Adam learning rate of meta-training (not reptile, baseline++)", least=0, most=RATE)
    meta_batch: int = setting(4, "episodes an outer step: maml, fomaml, protomaml, boil, reptile, mtl", least=1, most=STEPS)
    inner_lr: float = setting(0.01, "inner rate: maml, fomaml, protomaml", least=0, most=RATE)
    boil_lr: float = setting(0.5, "inner rate of boil, whose head stands still", least=0, most=RATE)
    inner_steps: int = setting(5, "inner steps in meta-training: maml, fomaml, protomaml, boil", least=1, most=STEPS)
    test_steps: int = setting(10, "inner steps on a downstream task: maml, fomaml, protomaml, boil", least=0, most=STEPS)
    order: int = setting(
        2, "2: the gradient through the inner steps; 1: first order; of protomaml and boil (maml is 2, fomaml 1)", choices=(1, 2)
    )
    attention_scale: float = setting(
        100.0, "matchingnet: factor of the cosines in the attention; Vinyals et al. have 1, Chen et al. 100", least=0, most=WEIGHT
    )
    reptile_lr: float = setting(1e-3, "reptile: Adam rate of the inner steps", least=0, most=RATE)
    reptile_steps: int = setting(8, "reptile: inner steps in meta-training", least=1, most=STEPS)
    reptile_test_steps: int = setting(50, "reptile: steps on a downstream task", least=0, most=STEPS)
    reptile_batch: int = setting(10, "reptile: images an inner step", least=2, most=STEPS)
    reptile_step: float = setting(1.0, "reptile: share of the way to the adapted weights, falling linearly to 0", least=0, most=1)
    pretrain_epochs: int = setting(100, "epochs of plain classification before: baseline++, mtl, deepemd", least=0, most=STEPS)
    pretrain_batch: int = setting(64, "images a step of it", least=2, most=STEPS)
    pretrain_lr: float = setting(0.1, "SGD rate of it, cosine over the epochs", least=0, most=RATE)
    cosine_scale: float = setting(10.0, "baseline++: factor of the cosines before the softmax", least=0, most=WEIGHT)
    tune_steps: int = setting(100, "baseline++: passes of the new head over a downstream task's images", least=0, most=STEPS)
    tune_batch: int = setting(4, "baseline++: images a step of it", least=1, most=STEPS)
    tune_lr: float = setting(0.01, "baseline++: rate of such a step", least=0, most=RATE)
    mtl_lr: float = setting(0.01, "mtl: rate of the head's inner steps", least=0, most=RATE)
    mtl_steps: int = setting(50, "mtl: the head's inner steps, in meta-training and on a downstream task", least=0, most=STEPS)
    emd_temperature: float = setting(12.5, "deepemd: factor of the mean similarity before the softmax", least=0, most=WEIGHT)
    emd_steps: int = setting(100, "deepemd: passes of the structured layer over a downstream task's images (several a class)", least=0, most=STEPS)
    emd_batch: int = setting(4, "deepemd: images a step of it", least=1, most=STEPS)
    emd_lr: float = setting(100.0, "deepemd: rate of such a step (the authors' 100: a cosine's gradient is small)", least=0, most=WEIGHT)
