"""The records of the continual strategies: code, arguments, heads, and which ones cannot run.

It imports neither torch nor Avalanche, so that settings and the command line may read it.
``evolve.ancestor.strategies`` holds the strategies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolve.core.errors import UserError
from evolve.core.registry import Record, refusal

if TYPE_CHECKING:
    from evolve.core.settings import AncestorSettings

ALL = ("shared", "per-task", "single")
SEPARATE = ("single", "per-task")
POLICIES = ("experience-balanced", "class-balanced", "reservoir")
ONE_LABEL = "it needs one label a class over all tasks"
CONTRADICTS = (
    "a class that recurs has another label in each task, so earlier images would "
    "contradict new ones"
)


@dataclass(frozen=True)
class Argument:
    """What a scenario may write for one of ancestor.strategy_args.

    It is a number from ``least`` to ``most``, or one of ``choices``.
    """

    default: Any
    kind: type = float
    least: float = 0
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def fits(self, value: Any) -> bool:
        """Whether this value is allowed."""
        if self.kind is str:
            return value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(
            value, bool
        )
        return number and self.least <= value <= self.most and math.isfinite(value)

    def allowed(self) -> str:
        """What is allowed, as the end of an error's sentence."""
        if self.kind is str:
            return f"allowed are {', '.join(self.choices)}"
        if self.kind is bool:
            return "expected true or false"
        limits = (
            f"of at least {self.least:g}"
            if self.most == math.inf
            else f"from {self.least:g} to {self.most:g}"
        )
        return f"expected {'a whole number' if self.kind is int else 'a number'} {limits}"


@dataclass(frozen=True)
class Strategy(Record):
    """A strategy's arguments, the heads it works with and ``why`` not with the others.

    ``whole``: whether it trains on all tasks so far. ``code``: one of our templates, or a plugin in
    the plain one.
    """

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    heads: tuple[str, ...] = ALL
    why: str = ""
    whole: bool = False


def _at(place: str) -> str:
    return f"evolve.ancestor.strategies.{place}"


def _memory(images: int = 200) -> Argument:
    return Argument(images, int, 1)


def _batch(images: int) -> Argument:
    return Argument(images, int, 2)


STRATEGIES: dict[str, Strategy] = {
    "naive": Strategy(_at("template:PlainStrategy"), "fine-tuning"),
    "cumulative": Strategy(
        _at("template:PlainStrategy"),
        "trains on all tasks so far, from the last ancestor",
        whole=True,
        heads=SEPARATE,
        why=CONTRADICTS,
    ),
    "joint": Strategy(
        _at("template:PlainStrategy"),
        "trains on all tasks so far, from the untrained ancestor",
        whole=True,
    ),
    "from-scratch": Strategy(
        _at("baselines:FromScratch"), "trains each task alone, from the untrained ancestor"
    ),
    "ewc": Strategy(
        _at("regularisers:EWC"),
        "Elastic Weight Consolidation",
        {
            "ewc_lambda": Argument(1.0),
            "mode": Argument("separate", str, choices=("separate", "online")),
            "decay_factor": Argument(None, most=1),
        },
    ),
    "si": Strategy(
        _at("regularisers:SI"),
        "Synaptic Intelligence",
        {"si_lambda": Argument(1.0), "eps": Argument(1e-7, least=1e-30)},
    ),
    "mas": Strategy(
        _at("importance:MAS"),
        "Memory Aware Synapses",
        {"lambda_reg": Argument(1.0), "alpha": Argument(0.5, most=1)},
    ),
    "rwalk": Strategy(
        _at("importance:RWalk"),
        "Riemannian Walk",
        {
            "ewc_lambda": Argument(0.1),
            "ewc_alpha": Argument(0.9, most=1),
            "delta_t": Argument(10, int, 1),
        },
    ),
    "lwf": Strategy(
        _at("distillation:LwF"),
        "Learning without Forgetting",
        {"alpha": Argument(1.0), "temperature": Argument(2.0, least=1e-3)},
    ),
    "lfl": Strategy(
        _at("distillation:LFL"),
        "Less-forgetting Learning",
        {"lambda_e": Argument(1.0)},
        ("shared",),
        "it freezes the head after the first task, so new heads or classes would never be learned",
    ),
    "feature-distillation": Strategy(
        _at("distillation:FeatureDistillation"),
        "keeps the last ancestor's features",
        {"alpha": Argument(1.0)},
    ),
    "replay": Strategy(
        _at("rehearsal:Replay"),
        "images of earlier tasks join each batch",
        {"mem_size": _memory(), "policy": Argument("experience-balanced", str, choices=POLICIES)},
        SEPARATE,
        CONTRADICTS,
    ),
    "gdumb": Strategy(
        _at("rehearsal:GDumb"),
        "trains on a balanced memory alone",
        {"mem_size": _memory()},
        SEPARATE,
        CONTRADICTS,
    ),
    "gem": Strategy(
        _at("projections:GEM"),
        "Gradient Episodic Memory",
        {"patterns_per_experience": _batch(64), "memory_strength": Argument(0.5)},
        SEPARATE,
        CONTRADICTS,
    ),
    "agem": Strategy(
        _at("projections:AGEM"),
        "Averaged GEM",
        {"patterns_per_experience": _batch(64), "sample_size": _batch(64)},
        SEPARATE,
        CONTRADICTS,
    ),
    "mir": Strategy(
        _at("rehearsal:MIR"),
        "Maximally Interfered Retrieval",
        {"mem_size": _memory(), "batch_size_mem": _batch(10), "subsample": _batch(200)},
        ("single",),
        ONE_LABEL,
    ),
    "der": Strategy(
        _at("asymmetric:DER"),
        "Dark Experience Replay; DER++ by beta",
        {
            "mem_size": _memory(),
            "batch_size_mem": _batch(64),
            "alpha": Argument(0.1),
            "beta": Argument(0.5),
        },
        ("single",),
        ONE_LABEL,
    ),
    "er-ace": Strategy(
        _at("asymmetric:ERACE"),
        "replay with an asymmetric cross-entropy",
        {"mem_size": _memory(), "batch_size_mem": _batch(10)},
        ("single",),
        ONE_LABEL,
    ),
    "er-aml": Strategy(
        _at("asymmetric:ERAML"),
        "replay with an asymmetric metric loss",
        {
            "mem_size": _memory(),
            "batch_size_mem": _batch(10),
            "temp": Argument(0.1, least=1e-3),
            "base_temp": Argument(0.07, least=1e-3),
        },
        ("single",),
        ONE_LABEL,
    ),
    "scr": Strategy(
        _at("prototypes:SCR"),
        "Supervised Contrastive Replay",
        {"mem_size": _memory(), "temperature": Argument(0.1, least=1e-3)},
        ("single",),
        ONE_LABEL,
    ),
    "cope": Strategy(
        _at("prototypes:CoPE"),
        "Continual Prototype Evolution",
        {"mem_size": _memory(), "alpha": Argument(0.99, most=1), "T": Argument(0.1, least=1e-3)},
        ("single",),
        ONE_LABEL,
    ),
    "feature-replay": Strategy(
        _at("features:FeatureReplay"),
        "replays features of earlier tasks",
        {"mem_size": _memory(), "batch_size_mem": _batch(10)},
        ("single",),
        ONE_LABEL,
    ),
    "generative-replay": Strategy(
        _at("generative:GenerativeReplay"),
        "replays images of a generator",
        {
            "nhid": Argument(16, int, 1),
            "lr": Argument(0.01),
            "increasing_replay_size": Argument(False, bool),
        },
        ("single",),
        ONE_LABEL,
    ),
    "la-maml": Strategy(
        _at("meta:LaMAML"),
        "Look-ahead MAML",
        {
            "n_inner_updates": Argument(5, int, 1),
            "second_order": Argument(True, bool),
            "grad_clip_norm": Argument(1.0, least=1e-6),
            "learn_lr": Argument(True, bool),
            "lr_alpha": Argument(0.25),
            "sync_update": Argument(False, bool),
            "alpha_init": Argument(0.1),
            "max_buffer_size": _memory(),
            "buffer_mb_size": _batch(10),
        },
        ("single",),
        ONE_LABEL,
    ),
    "cwr-star": Strategy(
        _at("baselines:CWRStar"),
        "averages the head's rows over tasks",
        {"freeze": Argument(True, bool)},
        ("single",),
        ONE_LABEL,
    ),
}

OWN_NETWORK = "it comes with a network of its own, and the ancestor must be the scenario's"
NO_TRAINING = (
    "it changes how images are classified, not what the ancestor's layers learn: they "
    "would be naive's"
)
REFUSED: dict[str, str] = {
    "pnn": OWN_NETWORK + " (a column of layers a task)",
    "packnet": "Avalanche's does not support batch normalisation",
    "ar1": OWN_NETWORK + " (a pretrained MobileNet)",
    "l2p": OWN_NETWORK + " (a pretrained ViT with a pool of prompts)",
    "expert-gate": OWN_NETWORK + " (an AlexNet a task)",
    "slda": "it fits a classifier on a network that is already trained; the ancestor would learn "
    "nothing",
    "ncm": NO_TRAINING,
    "fecam": NO_TRAINING,
    "icarl": "it learns a class only in the first task that shows it, and classes recur on this "
    "stream",
    "bic": "Avalanche's cannot set validation images aside here, and it corrects the newest "
    "classes' bias against the older ones', and on this stream a class may be both",
    "mer": "it steps on one image at a time, for which batch normalisation has no statistics",
    "rar": "Avalanche's cuts the network open by torch.fx, which cannot trace it, and clips images "
    "to 0..1, which normalised ones leave",
    "gss-greedy": "Avalanche's adds single images' gradients to every update and replays unfilled "
    "places of its memory as blank images of class 0",
    "online-naive": 'Avalanche gave it up for naive: set ancestor.strategy to "naive" and '
    "ancestor.epochs to 1",
    "der++": 'set ancestor.strategy to "der": with ancestor.strategy_args.beta above 0, as by '
    "default, it is DER++",
    "lamaml-higher": 'it needs the package higher: set ancestor.strategy to "la-maml"',
    "object-detection": "it detects objects, and the stream has classes",
    "autoencoder": "it trains an autoencoder, not a classifier",
    "vae": "it trains a generator, not a classifier; generative-replay uses it",
    "il2m": "Avalanche 0.6 has none",
}


def check_strategy(a: AncestorSettings) -> dict[str, Any]:
    """The strategy's arguments, with their defaults.

    Args:
        a: the scenario's [ancestor].

    Raises:
        UserError: an argument, or the strategy itself or with this head, cannot work; the line says
            what is allowed and why.
    """
    if reason := refusal("strategies", a.strategy):
        raise UserError(reason)
    if a.strategy not in STRATEGIES:  # a plug-in's, which looks at its arguments itself
        return dict(a.strategy_args)
    strategy = STRATEGIES[a.strategy]
    if a.head not in strategy.heads:
        heads = " or ".join(f'"{head}"' for head in strategy.heads)
        raise UserError(
            f'ancestor.head = "{a.head}" with ancestor.strategy = "{a.strategy}": {strategy.why}; '
            f"set ancestor.head to {heads}"
        )
    for name, value in a.strategy_args.items():
        _check_argument(a.strategy, name, value, strategy.arguments)
    chosen = {name: argument.default for name, argument in strategy.arguments.items()} | dict(
        a.strategy_args
    )
    if a.strategy == "ewc" and (chosen["mode"] == "online") != (chosen["decay_factor"] is not None):
        raise UserError(
            'ancestor.strategy_args.decay_factor: needed with mode = "online", and only there; a '
            "number from 0 to 1"
        )
    for name, pool in (
        ("batch_size_mem", "mem_size"),
        ("batch_size_mem", "subsample"),
        ("buffer_mb_size", "max_buffer_size"),
    ):
        if name in chosen and pool in chosen and chosen[name] > chosen[pool]:
            where = f"ancestor.strategy_args.{name} = {chosen[name]}"
            raise UserError(
                f"{where}: more than ancestor.strategy_args.{pool} = {chosen[pool]}, of which it "
                "is drawn; lower it"
            )
    return chosen


def _check_argument(
    strategy: str, name: str, value: Any, arguments: Mapping[str, Argument]
) -> None:
    where = f"ancestor.strategy_args.{name}"
    if name not in arguments:
        allowed = f"it takes {', '.join(sorted(arguments))}" if arguments else "it takes none"
        raise UserError(f"{where}: not an argument of strategy {strategy}; {allowed}")
    if not arguments[name].fits(value):
        raise UserError(f"{where} = {value!r}: {arguments[name].allowed()}")
