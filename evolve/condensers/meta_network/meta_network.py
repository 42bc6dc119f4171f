"""The paper's condenser (4.2): a meta-network scores every pair of ancestor and descendant layer.

The frozen ancestor's features enter only through :class:`matching.Frozen`, computed once per meta
image. Draws come from the seed alone, not from the lineage length, so the condensations of a
lineage differ by their ancestors only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evolve.condensers.batches import epoch_rows, meta_rows, steps_per_epoch
from evolve.condensers.interface import Condensed, Request, condensed, fixed_condensation
from evolve.condensers.meta_network.convergence import Convergence, Diverged
from evolve.condensers.meta_network.frozen import CHUNK, Features, FrozenAncestor
from evolve.condensers.meta_network.hypergradient import Rule, Tensors, sgd
from evolve.condensers.meta_network.losses import Losses, Objective
from evolve.condensers.meta_network.matchers import matcher_for
from evolve.condensers.meta_network.matching import Frozen, Matcher
from evolve.condensers.meta_network.phi import MetaNetwork, Pull
from evolve.condensers.meta_network.phi import optimizer as phi_optimizer
from evolve.condensers.meta_network.pseudo import Pseudo
from evolve.condensers.meta_network.written import Written
from evolve.condensers.selection import movement, select
from evolve.core.randomness import generator
from evolve.core.spent import Progress
from evolve.data.resident import sent
from evolve.networks.network import Network

REPORT_EVERY = 10
ATTEMPTS = 3  # condensations, at most, to find the rate at which alpha moves as far as it shall
FARTHEST = 0.6  # a movement beyond which too many pairs are at 0, whatever was asked for


@dataclass
class _State:
    """``squared``: the squared norm of phi's last gradient.

    ``pull``: all of them, where they are asked for.
    """

    params: Tensors
    buffers: Tensors
    phi: nn.Module
    optimizer: torch.optim.Optimizer | None
    squared: Tensor
    pull: Pull | None
    wrong: torch.Generator | None


@dataclass(frozen=True)
class Batch:
    """Images and labels of a training and a meta batch.

    ``rows``, ``train_rows``: their places in the meta and the training index.
    """

    train: Tensor
    train_labels: Tensor
    meta: Tensor
    meta_labels: Tensor
    rows: Tensor
    train_rows: Tensor | None = None


def meta_network(request: Request) -> Condensed:
    """Train pseudo-descendant, alignment and meta-network; select by alpha (Eq. 9, 10).

    A condensation whose losses stop being finite selects nothing: status "collapsed", alpha 0, the
    fixed set, and the reason; one wild ancestor must not end a lineage of days.

    Args:
        request: the condensation to do.

    Raises:
        UserError: the ancestor's own features are not finite.
    """
    c, run = request.c, Condensation(request)
    reach = c.meta_reach if c.meta_optimizer == "sgd" else 0.0
    try:
        tried = attempts(run, request, reach)
    except Diverged:
        return diverged(request)
    best = min(tried, key=lambda attempt: attempt.distance(reach))
    condensation = condensed(
        best.alpha,
        best.history,
        lambda alpha: select(alpha, c.selection, c.top_k, request.fallback, reach),
    )
    effort = {"meta_lr": best.rate, "attempts": float(len(tried)), "movement": movement(best.alpha)}
    return replace(condensation, effort={name: [number] for name, number in effort.items()})


@dataclass(frozen=True)
class Attempt:
    """A whole condensation at one rate of phi."""

    rate: float
    alpha: Tensor
    history: dict[str, list[float]]

    def distance(self, reach: float) -> float:
        """How far its movement is from ``reach``, as a factor's logarithm; 0 for no reach.

        Args:
            reach: mean |1 - alpha| over pairs.
        """
        moved = movement(self.alpha)
        return 0.0 if reach == 0 else abs(math.log(moved / reach)) if moved > 0 else math.inf


def attempts(run: Condensation, request: Request, reach: float) -> list[Attempt]:
    """Condensations from the same draws until alpha has moved far enough, ATTEMPTS at most.

    The first is at condense.meta_lr; each further one at the rate that the one before shows to be
    right (:class:`Pull`). A plain step's length is that of psi, so of the ancestor's features; this
    makes the choice independent of their scale.

    Args:
        run: the condensation.
        request: what it answers.
        reach: how far, within a factor of 2; 0: the first will do.

    Raises:
        Diverged: losses are not finite.
    """
    split, rate, tried = request.split, request.c.meta_lr, list[Attempt]()
    for number in range(ATTEMPTS):
        run.begin(rate, follow=reach > 0)
        again = f", attempt {number + 1} at rate {rate:.2g}" if number else ""

        def progress(fraction: float, text: str, again: str = again) -> None:
            request.progress(fraction, text + again)

        history = run.train(split.train, split.train_labels, split.meta_labels, progress)
        tried.append(Attempt(rate, run.scores(), history))
        if reach == 0 or reach / 2 <= movement(tried[-1].alpha) <= min(2 * reach, FARTHEST):
            break
        assert run.state.pull is not None
        rate = run.state.pull.rate(run.pooled, reach)
    return tried


def diverged(request: Request) -> Condensed:
    """The condensation of a pseudo-descendant whose losses stopped being finite: the fixed set.

    Args:
        request: what is answered.
    """
    why = (
        "fixed set, because the pseudo-descendant's losses were not finite at "
        f"condense.lr = {request.c.lr:g}; a lower one may help"
    )
    return replace(
        fixed_condensation(request, why, "collapsed"),
        alpha=torch.zeros(len(request.groups), len(request.pseudo_groups)),
    )


class Condensation:
    """One condensation's fixed parts, and the loop.

    Args:
        request: the condensation to do.

    Raises:
        UserError: the ancestor's features are not finite.
    """

    def __init__(self, request: Request) -> None:
        self.c, self.seed, self.resident = request.c, request.seed, request.resident
        self.meta_index, self.wrong_images = request.split.meta, request.wrong_images
        ancestor, pseudo = request.ancestor(), request.pseudo()
        if not request.reference:
            ancestor.fused = True  # nobody asks for its gradients
        frozen = Features(ancestor.eval().requires_grad_(False), request.groups)
        self._like = self.resident.batch(self.meta_index[:1])
        with torch.no_grad():
            shown = Features(pseudo.eval(), request.pseudo_groups)(self._like)
            self.matcher = matcher_for(frozen(self._like), shown)
        self.ancestor = FrozenAncestor(
            frozen, self.matcher, self.resident, self._shown(self.meta_index)
        )
        self.on_training: FrozenAncestor | None = None
        self.pooled = self.ancestor.pooled()
        self.pseudo = Pseudo(pseudo, request.pseudo_groups, self.matcher, self.seed)
        self.losses = self._losses(pseudo, request.reference)
        self.begin()

    def _losses(self, pseudo: Network, reference: bool) -> Losses:
        """The pseudo-descendant's losses, the fastest way there is."""
        if reference or self.resident.device.type != "cpu" or not isinstance(self.matcher, Matcher):
            return self.pseudo
        fused = pseudo.architecture.fast(self.resident.size)
        if fused is None:
            return self.pseudo
        return Written(fused, self.pseudo.network.places, self.matcher)

    def begin(self, rate: float | None = None, follow: bool = False) -> None:
        """Go back to the beginning, with the same draws.

        Args:
            rate: phi's; None: condense.meta_lr.
            follow: add phi's gradients up.
        """
        phi, optimizer = self.weighting(rate)
        zeros = tuple(torch.zeros_like(p) for p in self.pseudo.initial)
        pull = Pull(phi) if follow and isinstance(phi, MetaNetwork) else None
        wrong = None if self.wrong_images is None else generator(self.wrong_images, "wrong-images")
        self.state = _State(
            self.pseudo.initial, zeros, phi, optimizer, self._like.new_zeros(()), pull, wrong
        )

    def _shown(self, index: Tensor) -> Tensor:
        """Which image the ancestor is shown for each of ``index``: itself, but for a null test."""
        if self.wrong_images is None:
            return index
        return index[
            torch.randperm(len(index), generator=generator(self.wrong_images, "wrong-meta-images"))
        ]

    def weighting(self, rate: float | None) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """Make what gives every pair its weight.

        Args:
            rate: phi's; None: condense.meta_lr.

        Returns:
            The module, [B, sum of the pooled sizes] -> alpha [B, L, K], and what trains it, if
            anything.
        """
        sizes, layers = self.matcher.pooled_sizes, len(self.pseudo.network.places)
        phi = MetaNetwork(sizes, layers).to(self._like)
        return phi, phi_optimizer(phi, self.c, self.c.meta_lr if rate is None else rate)

    @property
    def matches_training(self) -> bool:
        """Whether the training batch is matched, too, so that its images must pass the ancestor."""
        return self.c.objective == "eq16"

    def train(
        self, train_index: Tensor, train_labels: Tensor, meta_labels: Tensor, progress: Progress
    ) -> dict[str, list[float]]:
        """Run all epochs.

        Args:
            train_index: the training images' indices.
            train_labels: their classes.
            meta_labels: the meta images' classes.
            progress: told the fraction done, in [0, 1], and what is being done.

        Returns:
            The curves of :class:`Convergence`.

        Raises:
            Diverged: losses are not finite.
        """
        steps = steps_per_epoch(len(train_index), self.c.batch)
        course = Convergence(self.c.epochs * steps)
        # Without augmentation every epoch shows the ancestor the same images.
        if self.matches_training and not self.c.augment and self.on_training is None:
            self.on_training = FrozenAncestor(
                self.ancestor.ancestor, self.matcher, self.resident, self._shown(train_index)
            )
        metas = meta_rows(len(self.meta_index), self.c.meta_batch, self.seed)
        for epoch in range(self.c.epochs):
            draws = generator(self.seed, "condense-augment", epoch)
            for step, rows in enumerate(
                epoch_rows(len(train_index), self.c.batch, self.seed, epoch)
            ):
                done = epoch + step / steps
                if step % REPORT_EVERY == 0:
                    progress(done / self.c.epochs, f"epoch {epoch + 1} of {self.c.epochs}")
                meta, device = next(metas), self.resident.device
                batch = Batch(
                    self.resident.batch(train_index[rows], self.c.augment, draws),
                    sent(train_labels[rows], device),
                    self.resident.batch(self.meta_index[meta]),
                    sent(meta_labels[meta], device),
                    meta,
                    rows,
                )
                losses = self.iterate(batch, 0.5 * (1 + math.cos(math.pi * done / self.c.epochs)))
                course.add(*losses, self.state.squared, self.scores)
        return course.curves

    def iterate(self, batch: Batch, annealed: float) -> tuple[Tensor, Tensor]:
        """One iteration of Algorithm 1: a step of theta and zeta, then one of phi.

        Args:
            batch: its images.
            annealed: the share of the learning rate, in [0, 1].

        Returns:
            (L_cls, L_meta) before the first step; under Eq. 16 L_meta is that of the meta batch,
            which phi then descends.
        """
        rule = Rule(self.c.lr * annealed, self.c.momentum, self.c.weight_decay)
        share = annealed if self.c.meta_schedule == "cosine" else 1.0
        way = self._eq16 if self.c.objective == "eq16" else self._bilevel
        return way(batch, rule, share)

    def _bilevel(self, batch: Batch, rule: Rule, share: float) -> tuple[Tensor, Tensor]:
        """The bilevel objective (the authors' code): matching on the meta batch.

        Phi descends the look-ahead's CE on the outer batch.
        """
        frozen = self.ancestor.of_rows(batch.rows)
        losses = self._real_step(batch, frozen, batch.meta, rule)
        alpha = self.state.phi(frozen.pooled)
        objective = Objective(batch.train, batch.train_labels, batch.meta, frozen, alpha.detach())
        on_training = self.c.outer == "train"
        outer = (
            (batch.train, batch.train_labels) if on_training else (batch.meta, batch.meta_labels)
        )
        gradient = self.losses.hypergradient(
            objective, outer, self.c.lookahead, self.state.params, self.state.buffers, rule
        )
        self._phi_step(frozen.pooled, alpha, gradient, share)
        return losses

    def _eq16(self, batch: Batch, rule: Rule, share: float) -> tuple[Tensor, Tensor]:
        """Algorithm 1 with Eq. 16 to the letter: matching on the training batch.

        Phi descends sum alpha psi on the meta batch.
        """
        classification, _ = self._real_step(batch, self._seen(batch), batch.train, rule)
        frozen = self.ancestor.of_rows(batch.rows)
        alpha = self.state.phi(frozen.pooled)
        psi = self.losses.psi(frozen, batch.meta, self.state.params) / len(batch.rows)
        self._phi_step(frozen.pooled, alpha, psi, share)
        return classification, (alpha.detach() * psi).sum()

    def _seen(self, batch: Batch) -> Frozen:
        """The ancestor's side of the training batch."""
        if self.on_training is not None and batch.train_rows is not None:
            return self.on_training.of_rows(batch.train_rows)
        shown, wrong = batch.train, self.state.wrong
        if wrong is not None:
            shown = shown[torch.randperm(len(shown), generator=wrong).to(shown.device)]
        return self.ancestor.of_images(shown, value=self.losses.value)

    def _real_step(
        self, batch: Batch, frozen: Frozen, matched: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        """theta and zeta one step down L_total = L_cls + lambda L_meta (Eq. 15)."""
        state = self.state
        with torch.no_grad():
            alpha = state.phi(frozen.pooled)
        objective = Objective(batch.train, batch.train_labels, matched, frozen, alpha)
        classification, matching, grads = self.losses.total(
            objective, self.c.match_weight, state.params
        )
        with torch.no_grad():
            state.params, state.buffers = sgd(state.params, state.buffers, grads, rule)
        return classification, matching

    def _phi_step(self, pooled: Tensor, alpha: Tensor, gradient: Tensor, share: float) -> None:
        """Phi one step down, given alpha [B, L, K] of images with ``pooled``, and its gradient.

        ``share``: of the rate, at this iteration.
        """
        state = self.state
        assert state.optimizer is not None
        state.optimizer.zero_grad()
        alpha.backward(gradient)
        state.squared = torch.stack(
            [p.grad.square().sum() for p in state.phi.parameters() if p.grad is not None]
        ).sum()
        state.optimizer.param_groups[0]["lr"] = state.optimizer.defaults["lr"] * share
        state.optimizer.step()
        if state.pull is not None:
            state.pull.add(pooled, gradient, share)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """alpha [L, K]: each pair's mean over all meta images."""
        return torch.stack([self.state.phi(part).sum(0) for part in self.pooled.split(CHUNK)]).sum(
            0
        ) / len(self.pooled)
