"""Avalanche's strategies over resident images, with a state that can be stored as tensors.

Importing this imports Avalanche: call :func:`evolve.data.streams.load_avalanche` first, as ``ancestor`` does.
The algorithms are Avalanche's. What is added here: batches by slicing instead of a DataLoader, a generator for every
draw, a loop that can start at any epoch, and ``state``/``restore`` so that the next task may run in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evolve.ancestor.strategies.asymmetric import DER, ERACE, ERAML
from evolve.ancestor.strategies.baselines import CWRStar, FromScratch
from evolve.ancestor.strategies.distillation import LFL, FeatureDistillation, LwF
from evolve.ancestor.strategies.features import FeatureReplay
from evolve.ancestor.strategies.generative import GenerativeReplay
from evolve.ancestor.strategies.importance import MAS, RWalk
from evolve.ancestor.strategies.loader import ResidentLoader
from evolve.ancestor.strategies.meta import LaMAML
from evolve.ancestor.strategies.plugin_check import foreign_plugin
from evolve.ancestor.strategies.projections import AGEM, GEM
from evolve.ancestor.strategies.prototypes import SCR, CoPE
from evolve.ancestor.strategies.regularisers import EWC, SI
from evolve.ancestor.strategies.rehearsal import MIR, GDumb, Replay
from evolve.ancestor.strategies.template import MultiHeadAncestor, PlainStrategy, ResidentStrategy, State, Stored, learning_rate
from evolve.core.registry import origin

PLUGINS: dict[str, Callable[..., Stored]] = {
    "from-scratch": FromScratch,
    "ewc": EWC,
    "si": SI,
    "mas": MAS,
    "rwalk": RWalk,
    "lwf": LwF,
    "lfl": LFL,
    "feature-distillation": FeatureDistillation,
    "replay": Replay,
    "gdumb": GDumb,
    "gem": GEM,
    "agem": AGEM,
    "mir": MIR,
    "cope": CoPE,
    "generative-replay": GenerativeReplay,
    "cwr-star": CWRStar,
}
TEMPLATES: dict[str, Callable[..., ResidentStrategy]] = {
    "der": DER,
    "er-ace": ERACE,
    "er-aml": ERAML,
    "scr": SCR,
    "feature-replay": FeatureReplay,
    "la-maml": LaMAML,
}


def make_strategy(name: str, arguments: Mapping[str, Any], **common: Any) -> ResidentStrategy:
    """The strategy ``name`` around an untrained ancestor; ``common`` are :class:`ResidentStrategy`'s own arguments but the plugin.

    A strategy is one of Avalanche's templates, or Avalanche's plugin in the plain template, or the plain template (naive, cumulative, joint);
    or another package's plugin in the plain template.
    """
    if name in TEMPLATES:
        return TEMPLATES[name](plugin=None, arguments=arguments, **common)
    if origin("strategies", name) is not None:
        return PlainStrategy(plugin=foreign_plugin(name, arguments), **common)
    return PlainStrategy(plugin=PLUGINS[name](**arguments) if name in PLUGINS else None, **common)


__all__ = [
    "PLUGINS",
    "TEMPLATES",
    "EWC",
    "SI",
    "LwF",
    "MultiHeadAncestor",
    "Replay",
    "ResidentLoader",
    "ResidentStrategy",
    "State",
    "Stored",
    "learning_rate",
    "make_strategy",
]
