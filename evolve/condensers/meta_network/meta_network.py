"""The paper's condenser (4.2): a meta-network scores every pair of ancestor layer and pseudo-descendant layer.

The frozen ancestor's features enter only through :class:`matching.Frozen`, computed once per meta image. Draws come from
the seed alone, not from the lineage length, so the condensations of a lineage differ by their ancestors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from evolve.condensers.batches import epoch_rows, meta_rows, steps_per_epoch
from evolve.condensers.interface import Condensed, Request, condensed, fixed_condensation
from evolve.condensers.meta_network.convergence import Convergence, Diverged
from evolve.condensers.meta_network.frozen import CHUNK, Features, FrozenAncestor, Groups
from evolve.condensers.meta_network.hypergradient import (
    Local,
    LookAhead,
    Rule,
    Tensors,
    reverse_sweep,
    sgd,
    sweep,
)
from evolve.condensers.meta_network.matchers import AnyMatcher, matcher_for
from evolve.condensers.meta_network.matching import Frozen, Layout, Matcher, Projection
from evolve.condensers.meta_network.phi import MetaNetwork, Pull
from evolve.condensers.meta_network.phi import optimizer as phi_optimizer
from evolve.condensers.meta_network.written import Written
from evolve.condensers.selection import movement, select
from evolve.core.randomness import generator
from evolve.core.settings import CondenseSettings
from evolve.core.spent import Progress
from evolve.data.resident import Resident, sent
from evolve.networks.network import Network

if TYPE_CHECKING:
    from typing_extensions import Self


REPORT_EVERY = 10
ATTEMPTS = 3
"""Condensations, at most, to find the rate at which alpha moves as far as it shall."""
FARTHEST = 0.6
"""A movement beyond which too many pairs are at 0, whatever was asked for."""


class Pseudo:
    """The pseudo-descendant (theta) and h (zeta) as functions of one tuple of tensors. BN uses and keeps no running statistics.

    Where h is the identity, zeta is empty.
    """

    def __init__(self, network: nn.Module, groups: Groups, matcher: AnyMatcher, seed: int) -> None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        self.network = Features(network.train(), groups)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.matcher = matcher
        theta = [
            p.detach().clone(memory_format=torch.preserve_format) for p in self.network.parameters()
        ]
        zeta = (
            _draw_alignment(matcher.layout, seed, like=theta[0])
            if isinstance(matcher, Matcher)
            else []
        )
        self.initial: Tensors = (*theta, *zeta)

    def matching(
        self, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]
    ) -> Tensor:
        """L_meta on images x [B, 3, H, W] with alpha [B, L, K]."""
        h = params[len(self.names) :]
        projections = [Projection(h[i], h[i + 1]) for i in range(0, len(h), 2)]
        return self.matcher.loss(frozen, alpha, self._call(params, x), projections)

    def loss(self, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> Tensor:
        """L_cls: cross-entropy, mean over the batch."""
        return F.cross_entropy(self._call(params, x, True)[0], labels)

    def _call(self, params: Sequence[Tensor], x: Tensor, logits: bool = False) -> list[Tensor]:
        return functional_call(
            self.network, dict(zip(self.names, params, strict=False)), (x, logits)
        )


def _draw_alignment(shape: Layout, seed: int, like: Tensor) -> list[Tensor]:
    """h's weights and biases, uniform within 1/sqrt(c_k) (torch's convolution default), each pair from its own generator."""
    drawn = []
    for k, (width, _) in enumerate(shape.descendant):
        bound = 1 / math.sqrt(width)
        pairs = [
            torch.empty(channels, width + 1).uniform_(
                -bound, bound, generator=generator(seed, "alignment", l, k)
            )
            for l, (channels, _) in enumerate(shape.ancestor)
        ]
        both = torch.cat(pairs).to(like)
        drawn += [both[:, :-1].contiguous(), both[:, -1].contiguous()]
    return drawn


@dataclass
class _State:
    """``squared``: the squared norm of phi's last gradient; ``pull``: all of them, where they are asked for."""

    params: Tensors
    buffers: Tensors
    phi: nn.Module
    optimizer: torch.optim.Optimizer | None
    squared: Tensor
    pull: Pull | None
    wrong: torch.Generator | None


@dataclass(frozen=True)
class Batch:
    """Images and labels of a training and a meta batch; ``rows``, ``train_rows``: their places in the meta and the training index."""

    train: Tensor
    train_labels: Tensor
    meta: Tensor
    meta_labels: Tensor
    rows: Tensor
    train_rows: Tensor | None = None


def meta_network(request: Request) -> Condensed:
    """Train pseudo-descendant, alignment and meta-network together; read the selection off alpha (Eq. 9, 10).

    A condensation whose losses stop being finite selects nothing: status "collapsed", alpha 0, the fixed set, and the reason; one
    wild ancestor must not end a lineage of days. Raises UserError when the ancestor's own features are not finite.
    """
    c, run = request.c, Condensation.of(request)
    reach = c.meta_reach if c.meta_optimizer == "sgd" else 0.0
    try:
        tried = attempts(run, request, reach)
    except Diverged:
        return diverged(request)
    best = min(tried, key=lambda one: one.distance(reach))
    found = condensed(
        best.alpha,
        best.history,
        lambda alpha: select(alpha, c.selection, c.top_k, request.fallback, reach),
    )
    effort = {"meta_lr": best.rate, "attempts": float(len(tried)), "movement": movement(best.alpha)}
    return replace(found, effort={name: [number] for name, number in effort.items()})


@dataclass(frozen=True)
class Attempt:
    """A whole condensation at one rate of phi."""

    rate: float
    alpha: Tensor
    history: dict[str, list[float]]

    def distance(self, reach: float) -> float:
        """How far its movement is from ``reach``, as a factor's logarithm; 0 where none is asked for."""
        moved = movement(self.alpha)
        return 0.0 if reach == 0 else abs(math.log(moved / reach)) if moved > 0 else math.inf


def attempts(run: Condensation, request: Request, reach: float) -> list[Attempt]:
    """Condensations from the same draws until alpha has moved by about ``reach`` (0: the first will do), ATTEMPTS at most.

    The first is at condense.meta_lr; each further one at the rate that the one before shows to be right (:class:`Pull`). A plain step's
    length is that of psi, so of the ancestor's features; this makes the choice independent of their scale. Raises Diverged.
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
    why = f"fixed set, because the pseudo-descendant's losses were not finite at condense.lr = {request.c.lr:g}; a lower one may help"
    return replace(
        fixed_condensation(request, why, "collapsed"),
        alpha=torch.zeros(len(request.groups), len(request.pseudo_groups)),
    )


class Condensation:
    """One condensation's fixed parts, and the loop."""

    def __init__(
        self,
        ancestor: nn.Module,
        pseudo: nn.Module,
        groups: Groups,
        pseudo_groups: Groups,
        resident: Resident,
        meta_index: Tensor,
        c: CondenseSettings,
        seed: int,
        reference: bool = False,
        wrong_images: int | None = None,
    ) -> None:
        self.c, self.seed, self.resident, self.meta_index, self.wrong_images = (
            c,
            seed,
            resident,
            meta_index,
            wrong_images,
        )
        if not reference and isinstance(ancestor, Network):
            ancestor.fused = True  # nobody asks for its gradients
        frozen = Features(ancestor.eval().requires_grad_(False), groups)
        probe = resident.batch(meta_index[:1])
        with torch.no_grad():
            self.matcher = matcher_for(frozen(probe), Features(pseudo.eval(), pseudo_groups)(probe))
        self.ancestor = FrozenAncestor(frozen, self.matcher, resident, self._shown(meta_index))
        self.on_training: FrozenAncestor | None = None
        self.pooled = self.ancestor.pooled()
        self.pseudo = Pseudo(pseudo, pseudo_groups, self.matcher, seed)
        self.written: Written | None = None
        fused = None
        if isinstance(pseudo, Network) and not reference and resident.device.type == "cpu":
            fused = pseudo.architecture.fast(resident.size)
        if fused is not None and isinstance(self.matcher, Matcher):
            self.written = Written(fused, self.pseudo.network.places, self.matcher)
        self._descendant_layers, self._like = len(pseudo_groups), probe
        self.begin()

    def begin(self, rate: float | None = None, follow: bool = False) -> None:
        """The same draws from the beginning, with phi's rate (None: condense.meta_lr); ``follow``: add its gradients up."""
        phi, optimizer = self.weighting(self._descendant_layers, self._like, rate)
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

    @classmethod
    def of(cls, request: Request) -> Self:
        """What a request asks for."""
        networks = request.ancestor(), request.pseudo(), request.groups, request.pseudo_groups
        return cls(
            *networks,
            request.resident,
            request.split.meta,
            request.c,
            request.seed,
            request.reference,
            request.wrong_images,
        )

    def weighting(
        self, descendant_layers: int, like: Tensor, rate: float | None
    ) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """What gives every pair its weight, [B, sum of the pooled sizes] -> alpha [B, L, K], and what trains it, if anything."""
        phi = MetaNetwork(self.matcher.pooled_sizes, descendant_layers).to(like)
        return phi, phi_optimizer(phi, self.c, self.c.meta_lr if rate is None else rate)

    @property
    def matches_training(self) -> bool:
        """Whether the training batch is matched, too, so that its images have to pass the ancestor."""
        return self.c.objective == "eq16"

    def train(
        self, train_index: Tensor, train_labels: Tensor, meta_labels: Tensor, progress: Progress
    ) -> dict[str, list[float]]:
        """All epochs; the curves of :class:`Convergence`. Raises Diverged."""
        steps = steps_per_epoch(len(train_index), self.c.batch)
        course = Convergence(self.c.epochs * steps)
        if (
            self.matches_training and not self.c.augment and self.on_training is None
        ):  # every epoch shows the ancestor the same images
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
                batch = replace(
                    self._batch(
                        train_index[rows], train_labels[rows], next(metas), meta_labels, draws
                    ),
                    train_rows=rows,
                )
                losses = self.iterate(batch, 0.5 * (1 + math.cos(math.pi * done / self.c.epochs)))
                course.add(*losses, self.state.squared, self.scores)
        return course.curves

    def _batch(
        self,
        index: Tensor,
        labels: Tensor,
        rows: Tensor,
        meta_labels: Tensor,
        draws: torch.Generator,
    ) -> Batch:
        device = self.resident.device
        images = self.resident.batch(index, self.c.augment, draws)
        return Batch(
            images,
            sent(labels, device),
            self.resident.batch(self.meta_index[rows]),
            sent(meta_labels[rows], device),
            rows,
        )

    def iterate(self, batch: Batch, annealed: float) -> tuple[Tensor, Tensor]:
        """One iteration of Algorithm 1: a step of theta and zeta, then one of phi.

        Returns (L_cls, L_meta) before the first; under Eq. 16 L_meta is that of the meta batch, which phi then descends.
        """
        rule = Rule(self.c.lr * annealed, self.c.momentum, self.c.weight_decay)
        share = annealed if self.c.meta_schedule == "cosine" else 1.0
        way = self._eq16 if self.c.objective == "eq16" else self._bilevel
        return way(batch, rule, share)

    def _bilevel(self, batch: Batch, rule: Rule, share: float) -> tuple[Tensor, Tensor]:
        """The bilevel objective (the authors' code): matching on the meta batch; phi descends the look-ahead's CE on the outer batch."""
        frozen = self.ancestor.of_rows(batch.rows)
        losses = self._real_step(batch, frozen, batch.meta, rule)
        alpha = self.state.phi(frozen.pooled)
        way = self._by_autograd if self.written is None else self._written_out
        self._phi_step(frozen.pooled, alpha, way(batch, frozen, alpha, rule), share)
        return losses

    def _outer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels of the look-ahead's cross-entropy."""
        return (
            (batch.train, batch.train_labels)
            if self.c.outer == "train"
            else (batch.meta, batch.meta_labels)
        )

    def _by_autograd(self, batch: Batch, frozen: Frozen, alpha: Tensor, rule: Rule) -> Tensor:
        """The hypergradient, for any network on any device."""
        look = LookAhead(
            matching=lambda params, weights: self.pseudo.matching(
                frozen, batch.meta, weights, params
            ),
            train_loss=lambda params: self.pseudo.loss(batch.train, batch.train_labels, params),
            outer_loss=lambda params: self.pseudo.loss(*self._outer(batch), params),
            steps=self.c.lookahead,
        )
        return reverse_sweep(look, alpha, self.state.params, self.state.buffers, rule)[1]

    @torch.no_grad()
    def _written_out(self, batch: Batch, frozen: Frozen, alpha: Tensor, rule: Rule) -> Tensor:
        """The same without autograd through the network."""
        written = self.written
        assert written is not None

        def matching(now: Tensors) -> Local:
            return written.matching(frozen, batch.meta, alpha.detach(), now)

        def outer(now: Tensors) -> tuple[Tensor, Tensors]:
            found = written.classification(*self._outer(batch), now)
            return found.loss, found.grads

        steps: list[Callable[[Tensors], Local]] = [matching] * self.c.lookahead
        steps.append(lambda now: written.classification(batch.train, batch.train_labels, now))
        return sweep(steps, outer, self.state.params, self.state.buffers, rule)[1]

    def _eq16(self, batch: Batch, rule: Rule, share: float) -> tuple[Tensor, Tensor]:
        """Algorithm 1 with Eq. 16 to the letter: matching on the training batch; phi descends sum alpha psi on the meta batch."""
        classification, _ = self._real_step(batch, self._seen(batch), batch.train, rule)
        frozen = self.ancestor.of_rows(batch.rows)
        alpha = self.state.phi(frozen.pooled)
        psi = self.psi(frozen, batch.meta) / len(batch.rows)
        self._phi_step(frozen.pooled, alpha, psi, share)
        return classification, (alpha.detach() * psi).sum()

    def _seen(self, batch: Batch) -> Frozen:
        """The ancestor's side of the training batch."""
        if self.on_training is not None and batch.train_rows is not None:
            return self.on_training.of_rows(batch.train_rows)
        shown, wrong = batch.train, self.state.wrong
        if wrong is not None:
            shown = shown[torch.randperm(len(shown), generator=wrong).to(shown.device)]
        return self.ancestor.of_images(shown, value=self.written is None)

    def psi(self, frozen: Frozen, x: Tensor) -> Tensor:
        """psi [B, L, K] of images x as the pseudo-descendant stands now. L_meta is linear in alpha: this is its gradient times B."""
        if self.written is not None:
            with torch.no_grad():
                return self.written.psi(frozen, x, self.state.params)
        weights = self.state.phi(frozen.pooled).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.pseudo.matching(frozen, x, weights, self.state.params), weights
        )
        return gradient * len(x)

    def _real_step(
        self, batch: Batch, frozen: Frozen, matched: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        """theta and zeta one step down L_total = L_cls + lambda L_meta (Eq. 15)."""
        with torch.no_grad():
            alpha = self.state.phi(frozen.pooled)
        if self.written is not None:
            return self._written_step(batch, frozen, matched, alpha, rule)
        leaves = tuple(p.detach().requires_grad_() for p in self.state.params)
        classification = self.pseudo.loss(batch.train, batch.train_labels, leaves)
        matching = self.pseudo.matching(frozen, matched, alpha, leaves)
        grads = torch.autograd.grad(classification + self.c.match_weight * matching, leaves)
        with torch.no_grad():
            self.state.params, self.state.buffers = sgd(leaves, self.state.buffers, grads, rule)
        return classification.detach(), matching.detach()

    @torch.no_grad()
    def _written_step(
        self, batch: Batch, frozen: Frozen, matched: Tensor, alpha: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        assert self.written is not None
        state = self.state
        if matched is batch.train and self.c.match_weight > 0:
            total = self.written.total(
                frozen, matched, batch.train_labels, alpha, self.c.match_weight, state.params
            )
            state.params, state.buffers = sgd(state.params, state.buffers, total.grads, rule)
            return total.classification, total.classification.new_zeros(())  # nobody asks for it
        classification = self.written.classification(batch.train, batch.train_labels, state.params)
        matching = self.written.matching(frozen, matched, alpha, state.params)
        grads = torch._foreach_add(
            list(classification.grads), list(matching.grads), alpha=self.c.match_weight
        )
        state.params, state.buffers = sgd(state.params, state.buffers, grads, rule)
        return classification.loss, matching.loss

    def _phi_step(self, pooled: Tensor, alpha: Tensor, gradient: Tensor, share: float) -> None:
        """Phi one step down, given alpha [B, L, K] of images with ``pooled`` and its gradient; ``share``: of the rate, at this iteration."""
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
