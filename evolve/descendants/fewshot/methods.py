"""The records of Table III's few-shot learners: code, settings read, help. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.core.registry import Record


@dataclass(frozen=True)
class FewshotLearner(Record):
    """A few-shot learner's record.

    Attributes:
        reads: the FewshotSettings that its results, and what they cost, depend on.
        second_order: whether, with no ``order`` to read, its inner steps are differentiated twice.
    """

    reads: frozenset[str]
    second_order: bool = False


def _learner(place: str, help: str, *reads: str, second_order: bool = False) -> FewshotLearner:
    code = f"evolve.descendants.fewshot.{place}"  # DeepEMD's brings a heavy library
    return FewshotLearner(code, help, frozenset(reads), second_order)


_EPISODES = ("episodes", "shots", "queries", "augment", "lr")
_INNER = (*_EPISODES, "meta_batch", "inner_steps", "test_steps")
_PRETRAIN = ("augment", "pretrain_epochs", "pretrain_batch", "pretrain_lr")
_REPTILE = ("reptile_lr", "reptile_steps", "reptile_test_steps", "reptile_batch", "reptile_step")

LEARNERS = {
    "matchingnet": _learner(
        "metric:MatchingNet",
        "attention over the support set, Vinyals et al. 2016",
        *_EPISODES,
        "attention_scale",
    ),
    "maml": _learner(
        "gradient:maml",
        "initial weights for gradient steps, Finn et al. 2017",
        *_INNER,
        "inner_lr",
        second_order=True,
    ),
    "fomaml": _learner(
        "gradient:fomaml",
        "MAML's first-order approximation",
        *_INNER,
        "inner_lr",
    ),
    "protonet": _learner(
        "metric:ProtoNet",
        "nearest class mean, Snell et al. 2017",
        *_EPISODES,
    ),
    "reptile": _learner(
        "reptile:Reptile",
        "towards adapted weights, Nichol et al. 2018",
        *_EPISODES[:-1],
        "meta_batch",
        *_REPTILE,
    ),
    "baseline++": _learner(
        "baseline:BaselinePlusPlus",
        "pre-training and a cosine head, Chen et al. 2019",
        *_PRETRAIN,
        "cosine_scale",
        "tune_steps",
        "tune_batch",
        "tune_lr",
    ),
    "protomaml": _learner(
        "gradient:protomaml",
        "MAML from prototypes, Triantafillou et al. 2020",
        *_INNER,
        "inner_lr",
        "order",
    ),
    "mtl": _learner(
        "mtl:MTL",
        "meta-transfer learning, Sun et al. 2019",
        *_EPISODES,
        *_PRETRAIN,
        "meta_batch",
        "mtl_lr",
        "mtl_steps",
    ),
    "boil": _learner(
        "gradient:boil",
        "MAML whose head stands still, Oh et al. 2021",
        *_INNER,
        "boil_lr",
        "order",
    ),
    "deepemd": _learner(
        "deepemd:DeepEMD",
        "earth mover's distance of places, Zhang et al. 2020",
        *_EPISODES,
        *_PRETRAIN,
        "emd_temperature",
        "emd_steps",
        "emd_batch",
        "emd_lr",
    ),
}
