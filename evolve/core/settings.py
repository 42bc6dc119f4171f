"""The settings of a scenario: typed, frozen, without behaviour. ``scenario.py`` reads them from TOML.

Every field carries in its metadata what a user may write (``choices``, ``least``, ``most``) and a line of help;
``scenario.py`` checks values against them and names them in its errors. ``key=False`` marks a field that cannot
change a number and therefore stays out of every stage key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.setting import MANY, RATE, SEEDS, SETS, STEPS, WEIGHT, setting

HEADS = ("shared", "per-task", "single")
AUGMENTATIONS = ("crop", "flip")
OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16", "tf32")


@dataclass(frozen=True)
class DataSettings:
    """[data]: which images, and how their classes are split between the three roles."""

    source: str = setting("glyphs", "where the images come from", registry="sources")
    descend_source: str = setting(
        "same", "where the condenser's and the descendants' images come from; same: the ancestor's source", choices=("same",), registry="sources"
    )
    size: int = setting(32, "pixels per side; images are resized to it", least=8, most=224)
    ancestor_classes: tuple[int, ...] = setting((), "class ids the ancestor learns from; empty: drawn, see split", least=0, most=MANY)
    condense_classes: tuple[int, ...] = setting((), "class ids the condenser uses; empty: drawn, see split", least=0, most=MANY)
    descend_classes: tuple[int, ...] = setting((), "class ids of the downstream tasks; empty: drawn, see split", least=0, most=MANY)
    split: tuple[int, ...] = setting((64, 16, 20), "classes for ancestor, condensing, descendants when drawn; []: 64, 16 and 20 % of those that there are", least=1, most=MANY)
    split_seed: int = setting(0, "seed of the drawn split; the same for every run seed", least=0, most=SEEDS)
    holdout: int = setting(0, "training images a class that are moved to the test images, for every role", least=0, most=MANY)
    test_share: float = setting(0.2, "imagefolder without test/ or val/: share of a class's photographs that are test images", least=0.01, most=0.9)
    images_per_class: int = setting(0, "imagenet, miniimagenet, imagefolder: training images a class that are decoded, drawn by split_seed; 0: all", least=0, most=MANY)
    glyph_seed: int = setting(0, "glyphs: seed of the rendered images", least=0, most=SEEDS)
    glyph_train: int = setting(100, "glyphs: training images a class", least=1, most=10_000)
    glyph_test: int = setting(50, "glyphs: test images a class", least=1, most=10_000)


def descend_source(data: DataSettings) -> str:
    """Where the condenser's and the descendants' images come from, by name."""
    return data.source if data.descend_source == "same" else data.descend_source


@dataclass(frozen=True)
class StreamSettings:
    """[stream]: the ancestor's tasks (paper 5.3). Each is drawn independently, so classes recur."""

    tasks: int = setting(25, "tasks the ancestor learns; generations of the lineage; 0: lineage length 0 alone", least=0, most=STEPS)
    classes_per_task: int = setting(5, "classes in a task, drawn without repeats inside the task", least=2, most=STEPS)
    images_per_class: int = setting(0, "training images a class; 0: all there are", least=0, most=MANY)
    measure: int | str | tuple[int, ...] = setting(
        "all",
        "lineage lengths that are condensed and measured: all, a number n (every n-th) or a list; the last one always is",
        choices=("all",),
        least=1,
        most=STEPS,
        key=False,
    )


@dataclass(frozen=True)
class AncestorSettings:
    """[ancestor]: the network that learns the stream, and how (paper 5.1, 5.3)."""

    network: str = setting("vgg16", "the ancestor's network", registry="networks")
    width: float = setting(1.0, "multiplier of every layer's channels", least=1 / 64, most=4)
    head: str = setting("shared", "shared: one head, labels 0..n-1; per-task: one head a task; single: one head over all classes", choices=HEADS)
    strategy: str = setting("naive", "Avalanche strategy", registry="strategies")
    strategy_args: dict[str, Any] = field(default_factory=dict, metadata={"help": "the strategy's own parameters", "key": True})
    epochs: int = setting(100, "epochs a task", least=1, most=STEPS)
    batch: int = setting(64, "images a step", least=2, most=STEPS)
    optimizer: str = setting("sgd", "sgd: with momentum; adamw: as ViTs are trained, momentum is not read", choices=OPTIMIZERS)
    lr: float = setting(0.1, "learning rate at the start of each task", least=0, most=RATE)
    momentum: float = setting(0.9, "SGD momentum", least=0, most=1)
    weight_decay: float = setting(5e-4, "weight decay", least=0, most=RATE)
    schedule: str = setting("milestones", "milestones: see there; cosine: to zero over each task's epochs", choices=("milestones", "cosine"))
    warmup: float = setting(0.0, "share of each task's epochs over which the learning rate rises to its full value", least=0, most=1)
    milestones: tuple[float, ...] = setting((0.5, 0.75), "fractions of a task's epochs at which lr is multiplied by gamma", least=0, most=1)
    gamma: float = setting(0.1, "factor at each milestone", least=0, most=1)
    augment: tuple[str, ...] = setting(("crop",), "training augmentations", choices=AUGMENTATIONS)
    checkpoint: str = setting("", "a ViT's pretrained weights to start from, a local timm or DINO file; its content, not its path, is in the keys", key=False)
    keep: int | str = setting(
        "all", "snapshots whose tensors stay on disk once the run is done; a number n: every n-th and the last", choices=("all", "last"), least=1, most=STEPS, key=False
    )
    precision: str = setting(
        "float32", "of the ancestor's convolutions and products; it stands in the keys as part of the arithmetic", choices=PRECISIONS, key=False
    )
    gradient_threshold: float = setting(5e-10, "condenser gradient: a weight-gradient entry counts when it is above this", least=0, most=1)


@dataclass(frozen=True)
class CondenseSettings:
    """[condense]: how the learngene's layers are chosen (paper 4.2)."""

    method: str = setting("meta-network", "meta-network: the paper's; others see docs/condensers.md; fixed: the layers of fixed_set", registry="condensers")
    objective: str = setting(
        "eq16", "what phi descends: eq16: L_meta, the paper's Eq. 16; bilevel: the loss after a look-ahead, the authors' code", choices=("eq16", "bilevel")
    )
    granularity: str = setting("conv", "conv: conv+BN layers (VGG16: L = 13); stage: stages between poolings (L = 5)", choices=("conv", "stage"))
    selection: str = setting("threshold", "threshold: Eq. 10; top-k: the top_k highest", choices=("threshold", "top-k"))
    top_k: int = setting(4, "layers kept by selection top-k, and by methods gradient, fisher and random", least=1, most=10_000)
    window: int = setting(5, "gradient: tasks, counted back from the last, over which a layer has to be stable", least=2, most=STEPS)
    fixed_set: str = setting("paper", "layers kept by method fixed, and when alpha decides nothing; front and last: top_k layers", choices=SETS)
    fixed: tuple[int, ...] = setting((), "instead of a fixed_set: layers by number, from 1", least=1, most=10_000)
    repeats: int = setting(1, "condensations with other random pseudo-descendants; alpha is their mean, their agreement is recorded", least=1, most=1000)
    epochs: int = setting(10, "epochs of the pseudo-descendant over the condensing training data", least=1, most=STEPS)
    images_per_class: int = setting(0, "condensing images a class; 0: all there are", least=0, most=MANY)
    meta_fraction: float = setting(1 / 6, "share of the condensing images that is meta-data (appendix A.1)", least=0.01, most=0.9)
    batch: int = setting(64, "training images a step", least=2, most=STEPS)
    meta_batch: int = setting(64, "meta-data images a step", least=2, most=STEPS)
    lookahead: int = setting(2, "bilevel: T, look-ahead steps on the matching loss", least=1, most=16)
    match_weight: float = setting(1.0, "lambda of L_total (Eq. 15)", least=0, most=WEIGHT)
    lr: float = setting(0.1, "SGD learning rate of theta and zeta, cosine over the epochs", least=0, most=RATE)
    momentum: float = setting(0.9, "SGD momentum of theta and zeta", least=0, most=1)
    weight_decay: float = setting(1e-4, "SGD weight decay of theta and zeta", least=0, most=RATE)
    outer: str = setting(
        "meta", "bilevel: the batch whose loss phi descends; meta: Algorithm 1's meta-data; train: the authors' code", choices=("meta", "train")
    )
    meta_optimizer: str = setting("sgd", "phi's step; sgd: a plain gradient step (Eq. 16); adam: the authors' code", choices=("sgd", "adam"))
    meta_lr: float = setting(1e-4, "learning rate of phi, the paper's beta_hat; where meta_reach is set, the first that is tried", least=0, most=RATE)
    meta_schedule: str = setting("cosine", "of meta_lr; cosine: to zero over the iterations; constant", choices=("cosine", "constant"))
    meta_weight_decay: float = setting(0.0, "weight decay of phi", least=0, most=RATE)
    meta_reach: float = setting(
        0.0, "meta_optimizer sgd: how far alpha shall move, mean |1 - alpha|; meta_lr follows from it; 0: meta_lr as it is", least=0, most=0.5
    )
    augment: tuple[str, ...] = setting(("crop",), "augmentations of the training batches", choices=AUGMENTATIONS)
    budget: float = setting(
        0.0,
        "trial: most share of the ancestor's weights that the learngene may hold; 0: the paper's set's",
        least=0,
        most=1,
    )
    trial_tasks: int = setting(
        10,
        "trial: tasks of condensing classes that every candidate set learns, as [descend] says",
        least=2, most=1000,
    )
    rivals: tuple[str, ...] = setting(
        ("meta-network",),
        "trial: other condensers, whose choices are tried too",
        registry="condensers",
    )
    args: dict[str, Any] = field(default_factory=dict, metadata={"help": "a plug-in condenser's own settings", "key": True})


@dataclass(frozen=True)
class InheritSettings:
    """[inherit]: how a learngene becomes part of a descendant (paper 4.3)."""

    method: str = setting("stack", "stack: the paper's; others see docs/inheritance.md", registry="inheritors")
    embeddings: str = setting("random", "a ViT's embeddings, class token and positions: random (paper), inherited (authors' code)", choices=("random", "inherited"))
    lr_scale: float = setting(1.0, "learning rate of inherited layers, times the others'; 0: frozen", least=0, most=RATE)
    depth: int = setting(
        0,
        "repeat, linear: a stage's convolutions (VGG) or residual blocks (ResNet), a ViT's blocks; "
        "0: the ancestor's",
        least=0,
        most=96,
    )
    width: float = setting(
        1.0,
        "share of the channels (a ViT: of the heads) that descendants have, the strongest; 1: all",
        least=1 / 64,
        most=1,
    )


@dataclass(frozen=True)
class DescendSettings:
    """[descend]: the five descendants and their own tasks (paper 5.1, 5.3)."""

    descendants: int = setting(5, "descendants a generation, one downstream task each", least=1, most=1000)
    classes_per_task: int = setting(5, "classes of a downstream task", least=2, most=STEPS)
    shots: int = setting(500, "training images a class", least=1, most=MANY)
    test_per_class: int = setting(0, "test images a class; 0: all there are", least=0, most=MANY)
    epochs: int = setting(50, "epochs", least=1, most=STEPS)
    test_every: int = setting(1, "epochs between two tests; 0: only after the last, which is always tested", least=0, most=STEPS)
    batch: int = setting(16, "images a step", least=2, most=STEPS)
    optimizer: str = setting("sgd", "sgd: with momentum; adamw: as ViTs are trained, momentum is not read", choices=OPTIMIZERS)
    lr: float = setting(5e-3, "learning rate", least=0, most=RATE)
    momentum: float = setting(0.9, "SGD momentum", least=0, most=1)
    weight_decay: float = setting(5e-4, "weight decay", least=0, most=RATE)
    warmup: float = setting(0.0, "share of the steps over which the learning rate rises to its full value", least=0, most=1)
    schedule: str = setting("cosine", "cosine: to zero over the epochs; constant", choices=("cosine", "constant"))
    distill_weight: float = setting(1.0, "controls.distilled: weight of each position's mean squared distance to the ancestor's feature", least=0, most=WEIGHT)
    augment: tuple[str, ...] = setting(("crop",), "training augmentations", choices=AUGMENTATIONS)
    precision: str = setting(
        "float32", "of the descendants' convolutions and products; it stands in the keys as part of the arithmetic", choices=PRECISIONS, key=False
    )


@dataclass(frozen=True)
class ControlSettings:
    """[controls]: what decides what the curve means. A number n is "at every n-th measured lineage length, and the last"; 0 is off."""

    from_scratch: bool = setting(True, "the same descendants, all layers random", key=False)
    draws: int = setting(
        1, "random draws of every from-scratch control, which is their mean: the noise of a single draw is common to all lengths", least=1, most=100, key=False
    )
    untrained: bool = setting(True, "lineage length 0: an untrained ancestor's learngene", key=False)
    shuffled: int = setting(1, "learngene with weights permuted within each tensor, every n-th measured length and the last; 0: off", least=0, most=STEPS, key=False)
    joint: int = setting(0, "an ancestor trained on the union of the tasks so far, every n-th measured length and the last; 0: off", least=0, most=STEPS, key=False)
    full_ancestor: int = setting(1, "the whole ancestor fine-tuned downstream, every n-th measured length and the last; 0: off", least=0, most=STEPS, key=False)
    distilled: int = setting(0, "from scratch with the ancestor's features as hints (Table II), every n-th measured length and the last; 0: off", least=0, most=STEPS, key=False)


@dataclass(frozen=True)
class Settings:
    """A whole scenario with its profile applied."""

    name: str = field(default="", metadata={"help": "the scenario's name", "key": False})
    title: str = field(default="", metadata={"help": "one line for `evolve scenarios`", "key": False})
    data: DataSettings = DataSettings()
    stream: StreamSettings = StreamSettings()
    ancestor: AncestorSettings = AncestorSettings()
    condense: CondenseSettings = CondenseSettings()
    inherit: InheritSettings = InheritSettings()
    descend: DescendSettings = DescendSettings()
    controls: ControlSettings = ControlSettings()
    fewshot: FewshotSettings = FewshotSettings()


@dataclass(frozen=True)
class Scenario:
    """A scenario with its profile and overrides applied."""

    settings: Settings
    profile: str
    origin: str  # the file, as errors quote it
    overrides: tuple[str, ...] = ()


SPARSE = ("shuffled", "joint", "full-ancestor", "distilled")  # controls that need not run at every generation
