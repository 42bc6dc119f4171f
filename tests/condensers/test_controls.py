"""What decides without looking, what repeats are worth, and that the table says truly what every
condenser reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_ancestors import VGG16, VIT, quiet, request, state

from evolve.condensers import methods as condenser_table
from evolve.condensers.condense import agreed, condense_ancestor
from evolve.condensers.interface import Condensed, scored
from evolve.core.errors import UserError
from evolve.core.registry import records
from evolve.core.settings import CondenseSettings
from evolve.lineage import scenario
from evolve.networks.architecture import Architecture

GRADIENTS = np.random.default_rng(1).uniform(0.2, 0.6, (4, 13)).tolist()
NAMES = frozenset(f.name for f in fields(CondenseSettings))


class Recording(CondenseSettings):
    """Settings that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            object.__getattribute__(self, "__dict__").setdefault("_seen", set()).add(name)
        return super().__getattribute__(name)


def seen(c: CondenseSettings) -> set[str]:
    names: set[str] = c.__dict__["_seen"]
    return names


def test_random_layers_depend_on_the_seed_alone() -> None:
    first = condense_ancestor(request("random"))
    other = condense_ancestor(
        replace(
            request("random", weights={k: v * 2 for k, v in state().items()}),
            resident=None,
            ancestor_record={},
        )
    )
    assert (
        first.selected == other.selected and len(first.selected) == 4 and first.status == "selected"
    )
    assert (
        len({condense_ancestor(request("random", seed=seed)).selected for seed in range(20)}) > 10
    )
    assert condense_ancestor(request("random", top_k=13)).selected == tuple(range(13))


def test_every_set_of_layers_is_as_likely() -> None:
    drawn = Counter(
        condense_ancestor(request("random", granularity="stage", top_k=2, seed=seed)).selected
        for seed in range(1000)
    )
    assert len(drawn) == 10 and chisquare(list(drawn.values())).pvalue > 0.001


def test_repeats_of_random_draw_others_and_agree_by_chance() -> None:
    done = condense_ancestor(request("random", repeats=30))
    assert len(set(done.repeats)) > 20 and len(done.selected) == 4
    assert done.agreement is not None and done.agreement < 0.2
    assert done.repeats[0] == condense_ancestor(request("random")).selected


def test_repeats_share_one_split_of_the_images() -> None:
    asked = request("cka", images_per_class=6)
    again = asked.again(5, quiet).again(6, quiet)
    assert (
        again.seed == 6
        and torch.equal(again.split.train, asked.split.train)
        and torch.equal(again.split.meta, asked.split.meta)
    )
    assert not torch.equal(
        request("cka", images_per_class=6, seed=6).split.train, asked.split.train
    )


@pytest.mark.parametrize(
    ("architecture", "name", "count", "granularity", "expected"),
    [
        (VGG16, "paper", 4, "conv", (0, 10, 11, 12)),
        (VGG16, "authors", 4, "conv", (10, 11, 12)),
        (VGG16, "front", 3, "conv", (0, 1, 2)),
        (VGG16, "last", 3, "conv", (10, 11, 12)),
        (VGG16, "front", 4, "stage", (0, 1)),
        (VGG16, "paper", 4, "stage", (0, 4)),
        (VIT, "paper", 4, "conv", (0, 1)),
        (VIT, "paper", 2, "stage", (0,)),
        (VIT, "last", 2, "stage", (1,)),
    ],
)
def test_fixed_sets(
    architecture: Architecture, name: str, count: int, granularity: str, expected: tuple[int, ...]
) -> None:
    done = condense_ancestor(
        request("fixed", architecture, fixed_set=name, top_k=count, granularity=granularity)
    )
    assert (done.selected, done.status) == (expected, "fixed")


@pytest.mark.parametrize("method", condenser_table.CONDENSERS)
def test_repeats_that_would_all_be_the_same_are_refused(method: str) -> None:
    words = [f"condense.method={method}", "condense.repeats=10"]
    if method in ("fixed", "gradient"):
        text = (
            f"condense.repeats = 10: method {method} draws nothing, so every repeat would be "
            "the same; allowed is 1"
        )
        with pytest.raises(UserError, match=text):
            scenario.load("glyphs-seq25", "quick", words)
    else:
        assert scenario.load("glyphs-seq25", "quick", words).settings.condense.repeats == 10


@pytest.mark.parametrize("method", condenser_table.CONDENSERS)
def test_who_draws_and_who_computes(method: str) -> None:
    """Another seed finds another alpha, and the plain path another rounding, where the table says
    so, and only there.
    """
    first, other, plain = (
        condense_ancestor(request(method, gradients=GRADIENTS, seed=seed, reference=reference))
        for seed, reference in ((0, False), (1, False), (0, True))
    )
    record = condenser_table.CONDENSERS[method]
    assert torch.equal(first.alpha, other.alpha) != record.draws
    assert (
        torch.equal(first.alpha, plain.alpha) != record.computes or method == "trial"
    )  # counts of images, which rounding rarely moves


def test_every_builtin_stands_in_the_table() -> None:
    assert condenser_table.CONDENSERS.keys() == records("condensers").keys()


@pytest.mark.parametrize(
    "more",
    [
        {"selection": "top-k"},
        {"selection": "threshold", "objective": "bilevel", "meta_optimizer": "adam"},
        {"selection": "top-k", "objective": "bilevel"},
        {"selection": "top-k", "meta_optimizer": "adam", "repeats": 2},
    ],
    ids=["top-k", "threshold, authors'", "plain bilevel", "adam repeated"],
)
@pytest.mark.parametrize("method", condenser_table.CONDENSERS)
def test_the_table_says_what_is_read(method: str, more: dict[str, Any]) -> None:
    """Run as a stage runs: only what the table names is given, and just that is read."""
    asked = request(method, gradients=GRADIENTS, fixed=(1, 11, 12, 13), images_per_class=8, **more)
    names = condenser_table.read(asked.c)
    c = Recording(**{name: getattr(asked.c, name) for name in names})
    done = condense_ancestor(replace(asked, c=c))
    assert isinstance(done, Condensed)
    passed_on = (
        {"top_k"} if method == "meta-network" else set()
    )  # handed to select(), which leaves it alone under the threshold
    assert seen(c) - passed_on - {"repeats"} == names - passed_on - {"repeats"}


@pytest.mark.parametrize("method", condenser_table.CONDENSERS)
def test_what_is_not_read_changes_nothing(method: str) -> None:
    asked = request(method, gradients=GRADIENTS, fixed=(1, 11, 12, 13))
    others = {
        "objective": "bilevel",
        "outer": "train",
        "meta_optimizer": "adam",
        "meta_schedule": "constant",
        "meta_reach": 0.2,
    }
    others |= {
        "selection": "top-k",
        "top_k": 2,
        "window": 3,
        "fixed": (2,),
        "epochs": 2,
        "images_per_class": 7,
        "meta_fraction": 0.5,
    }
    others |= {
        "batch": 5,
        "meta_batch": 5,
        "lookahead": 1,
        "match_weight": 0.5,
        "lr": 0.01,
        "momentum": 0.5,
        "weight_decay": 0.1,
        "meta_lr": 0.1,
    }
    others |= {"meta_weight_decay": 0.1, "augment": ("flip",), "fixed_set": "front"}
    others |= {"budget": 0.9, "trial_tasks": 3, "rivals": ("cka",)}
    unread = {
        name: value for name, value in others.items() if name not in condenser_table.read(asked.c)
    }
    first, other = (
        condense_ancestor(asked),
        condense_ancestor(replace(asked, c=replace(asked.c, **unread))),
    )
    assert unread and torch.equal(first.alpha, other.alpha) and first.selected == other.selected


def test_repeats_are_judged_by_the_methods_own_rule() -> None:
    """Scores below 0 with the threshold: the meta-network's rule would call them collapsed."""
    asked = request("similarity", fixed=(1,))
    alphas = [
        torch.tensor([[-0.2, -0.9], [-0.3, -0.1], [-0.9, -0.5]]) - shift for shift in (0.0, 0.2)
    ]
    asked.__dict__["groups"] = (("conv1",), ("conv2",), ("conv3",))
    done = agreed([scored(asked, alpha, {}, "threshold") for alpha in alphas], asked)
    assert (done.status, done.selected, done.agreement) == ("selected", (0, 1), 1.0)
    assert done.selected_by == "threshold (Eq. 10), mean alpha of 2 condensations"


def test_a_repeat_that_decided_nothing_agrees_with_nothing() -> None:
    """Nine tied ones return the fixed set; that the tenth selects just this set is no agreement of
    ten.
    """
    asked = request("similarity", fixed=(1,))
    asked.__dict__["groups"] = (("conv1",), ("conv2",), ("conv3",))
    clear, tied = torch.tensor([[-0.1], [-0.9], [-0.9]]), torch.full((3, 1), -0.5)
    done = agreed([scored(asked, alpha, {}, "threshold") for alpha in [*[tied] * 9, clear]], asked)
    assert (done.status, done.selected, done.agreement) == ("selected", (0,), 0.1)
    assert done.selected_by == "threshold (Eq. 10), mean alpha of 10 condensations"
    done = agreed([scored(asked, tied, {}, "threshold") for _ in range(3)], asked)
    assert (done.status, done.agreement) == ("tied", None)
    gone = torch.full((3, 1), float("nan"))
    done = agreed([scored(asked, gone, {}, "threshold") for _ in range(10)], asked)
    assert (done.status, done.agreement) == ("collapsed", None), "no 10 of 10"


def test_scores_that_are_not_finite_leave_no_such_numbers_behind() -> None:
    asked = request("cka")
    alpha = torch.ones(13, 7)
    alpha[3, 1] = float("inf")
    done = scored(asked, alpha, {}, "threshold")
    assert (
        done.status == "collapsed"
        and done.selected == (0, 10, 11, 12)
        and not done.alpha.any()
        and torch.isfinite(done.weights).all()
    )
