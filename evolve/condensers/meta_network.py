"""The paper's condenser (4.2, SPEC 4): a meta-network scores every pair of ancestor layer and pseudo-descendant layer.

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
from evolve.condensers.compare import AnyMatcher, matcher_for
from evolve.condensers.frozen import CHUNK, Features, FrozenAncestor, Groups
from evolve.condensers.hypergradient import Local, LookAhead, Rule, Tensors, reverse_sweep, sgd, sweep
from evolve.condensers.interface import Condensed, Request, condensed, fixed_condensation
from evolve.condensers.matching import Frozen, Layout, Matcher, Projection
from evolve.condensers.selection import select
from evolve.condensers.written import Written
from evolve.data.resident import Resident
from evolve.networks.vgg import VGG
from evolve.randomness import generator
from evolve.settings import CondenseSettings

if TYPE_CHECKING:
    from typing_extensions import Self

Progress = Callable[[float, str], None]

REPORT_EVERY = 10


class MetaNetwork(nn.Module):
    """G: alpha^{l,k} = ReLU6(FC_{l,k}(pool(Z^l))). All FCs in one tensor; weight 0 and bias 1, so every pair starts at 1."""

    def __init__(self, sizes: Sequence[int], descendant_layers: int) -> None:
        """``sizes``: the length of pool(Z^l) for each ancestor layer."""
        super().__init__()
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.register_buffer("owner", F.one_hot(owner, len(sizes)).t().float())
        self.weight = nn.Parameter(torch.zeros(sum(sizes), descendant_layers))
        self.bias = nn.Parameter(torch.ones(len(sizes), descendant_layers))

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, sum of the sizes] -> [B, L, K], in 0..6."""
        return F.relu6(torch.matmul(self.get_buffer("owner"), pooled[:, :, None] * self.weight) + self.bias)


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
        theta = [p.detach().clone(memory_format=torch.preserve_format) for p in self.network.parameters()]
        zeta = _draw_alignment(matcher.layout, seed, like=theta[0]) if isinstance(matcher, Matcher) else []
        self.initial: Tensors = (*theta, *zeta)

    def matching(self, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]) -> Tensor:
        """L_meta on images x [B, 3, H, W] with alpha [B, L, K]."""
        h = params[len(self.names) :]
        projections = [Projection(h[i], h[i + 1]) for i in range(0, len(h), 2)]
        return self.matcher.loss(frozen, alpha, self._call(params, x), projections)

    def loss(self, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> Tensor:
        """L_cls: cross-entropy, mean over the batch."""
        return F.cross_entropy(self._call(params, x, True)[0], labels)

    def _call(self, params: Sequence[Tensor], x: Tensor, logits: bool = False) -> list[Tensor]:
        return functional_call(self.network, dict(zip(self.names, params, strict=False)), (x, logits))


def _draw_alignment(shape: Layout, seed: int, like: Tensor) -> list[Tensor]:
    """h's weights and biases, uniform within 1/sqrt(c_k) (torch's convolution default), each pair from its own generator."""
    drawn = []
    for k, (width, _) in enumerate(shape.descendant):
        bound = 1 / math.sqrt(width)
        pairs = [
            torch.empty(channels, width + 1).uniform_(-bound, bound, generator=generator(seed, "alignment", l, k))
            for l, (channels, _) in enumerate(shape.ancestor)
        ]
        both = torch.cat(pairs).to(like)
        drawn += [both[:, :-1].contiguous(), both[:, -1].contiguous()]
    return drawn


@dataclass
class _State:
    params: Tensors
    buffers: Tensors
    phi: nn.Module
    adam: torch.optim.Optimizer | None


@dataclass(frozen=True)
class Batch:
    train: Tensor
    train_labels: Tensor
    meta: Tensor
    meta_labels: Tensor
    rows: Tensor


def meta_network(request: Request) -> Condensed:
    """Train pseudo-descendant, alignment and meta-network together; read the selection off alpha (Eq. 9, 10).

    A condensation whose losses stop being finite selects nothing: status "collapsed", alpha 0, the fixed set, and the reason; one
    wild ancestor must not end a lineage of days. Raises UserError when the ancestor's own features are not finite.
    """
    c, split = request.c, request.split
    run = Condensation.of(request)
    try:
        history = run.train(split.train, split.train_labels, split.meta_labels, request.progress)
    except Diverged:
        return diverged(request)
    return condensed(run.scores(), history, lambda alpha: select(alpha, c.selection, c.top_k, request.fallback, c.objective))


class Diverged(Exception):
    """The losses of the pseudo-descendant are no longer finite."""


def diverged(request: Request) -> Condensed:
    why = f"fixed set, because the pseudo-descendant's losses were not finite at condense.lr = {request.c.lr:g}; a lower one may help"
    return replace(fixed_condensation(request, why, "collapsed"), alpha=torch.zeros(len(request.groups), len(request.pseudo_groups)))


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
    ) -> None:
        self.c, self.seed, self.resident, self.meta_index = c, seed, resident, meta_index
        frozen = Features(ancestor.eval().requires_grad_(False), groups)
        probe = resident.batch(meta_index[:1])
        with torch.no_grad():
            self.matcher = matcher_for(frozen(probe), Features(pseudo.eval(), pseudo_groups)(probe))
        self.ancestor = FrozenAncestor(frozen, self.matcher, resident, meta_index)
        self.pooled = self.ancestor.pooled()
        self.pseudo = Pseudo(pseudo, pseudo_groups, self.matcher, seed)
        self.written: Written | None = None
        if isinstance(pseudo, VGG) and isinstance(self.matcher, Matcher) and resident.device.type == "cpu" and not reference:
            self.written = Written(pseudo.plan, resident.size, self.pseudo.network.places, self.matcher)
        self.state = _State(self.pseudo.initial, tuple(torch.zeros_like(p) for p in self.pseudo.initial), *self.weighting(len(pseudo_groups), probe))

    @classmethod
    def of(cls, request: Request) -> Self:
        """What a request asks for."""
        networks = request.ancestor(), request.pseudo(), request.groups, request.pseudo_groups
        return cls(*networks, request.resident, request.split.meta, request.c, request.seed, request.reference)

    def weighting(self, descendant_layers: int, like: Tensor) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """What gives every pair its weight, [B, sum of the pooled sizes] -> alpha [B, L, K], and what trains it, if anything."""
        phi = MetaNetwork(self.matcher.pooled_sizes, descendant_layers).to(like)
        return phi, torch.optim.Adam(phi.parameters(), lr=self.c.meta_lr, weight_decay=self.c.meta_weight_decay)

    def train(self, train_index: Tensor, train_labels: Tensor, meta_labels: Tensor, progress: Progress) -> dict[str, list[float]]:
        """All epochs; the history, one number an epoch."""
        history: dict[str, list[float]] = {
            name: [] for name in ("classification", "matching", "alpha_mean", "alpha_min", "alpha_max", "dead")
        }
        steps = steps_per_epoch(len(train_index), self.c.batch)
        metas = meta_rows(len(self.meta_index), self.c.meta_batch, self.seed)
        for epoch in range(self.c.epochs):
            draws = generator(self.seed, "condense-augment", epoch)
            losses = []
            for step, rows in enumerate(epoch_rows(len(train_index), self.c.batch, self.seed, epoch)):
                done = epoch + step / steps
                if step % REPORT_EVERY == 0:
                    progress(done / self.c.epochs, f"epoch {epoch + 1} of {self.c.epochs}")
                batch = self._batch(train_index[rows], train_labels[rows], next(metas), meta_labels, draws)
                losses.append(self.iterate(batch, 0.5 * (1 + math.cos(math.pi * done / self.c.epochs))))
            self._record(history, losses)
        return history

    def _batch(self, index: Tensor, labels: Tensor, rows: Tensor, meta_labels: Tensor, draws: torch.Generator) -> Batch:
        device = self.resident.device
        images = self.resident.batch(index, self.c.augment, draws)
        return Batch(images, labels.to(device), self.resident.batch(self.meta_index[rows]), meta_labels[rows].to(device), rows)

    def iterate(self, batch: Batch, annealed: float) -> tuple[Tensor, Tensor]:
        """One iteration of Algorithm 1: a step of theta and zeta, then one of phi. Returns (L_cls, L_meta) before it."""
        rule = Rule(self.c.lr * annealed, self.c.momentum, self.c.weight_decay)
        return self._eq16(batch, rule) if self.c.objective == "eq16" else self._bilevel(batch, rule)

    def _bilevel(self, batch: Batch, rule: Rule) -> tuple[Tensor, Tensor]:
        """SPEC 4, bilevel objective: matching on the meta batch; phi descends the look-ahead's CE on it."""
        frozen = self.ancestor.of_rows(batch.rows)
        losses = self._real_step(batch, frozen, batch.meta, rule)
        alpha = self.state.phi(frozen.pooled)
        way = self._by_autograd if self.written is None else self._written_out
        self._phi_step(alpha, way(batch, frozen, alpha, rule))
        return losses

    def _by_autograd(self, batch: Batch, frozen: Frozen, alpha: Tensor, rule: Rule) -> Tensor:
        """The hypergradient, for any network on any device."""
        look = LookAhead(
            matching=lambda params, weights: self.pseudo.matching(frozen, batch.meta, weights, params),
            train_loss=lambda params: self.pseudo.loss(batch.train, batch.train_labels, params),
            outer_loss=lambda params: self.pseudo.loss(batch.meta, batch.meta_labels, params),
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
            found = written.classification(batch.meta, batch.meta_labels, now)
            return found.loss, found.grads

        steps: list[Callable[[Tensors], Local]] = [matching] * self.c.lookahead
        steps.append(lambda now: written.classification(batch.train, batch.train_labels, now))
        return sweep(steps, outer, self.state.params, self.state.buffers, rule)[1]

    def _eq16(self, batch: Batch, rule: Rule) -> tuple[Tensor, Tensor]:
        """Algorithm 1 with Eq. 16 to the letter: matching on the training batch; phi descends sum alpha psi on the meta batch."""
        losses = self._real_step(batch, self.ancestor.of_images(batch.train), batch.train, rule)
        frozen = self.ancestor.of_rows(batch.rows)
        alpha = self.state.phi(frozen.pooled)
        weights = alpha.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.pseudo.matching(frozen, batch.meta, weights, self.state.params), weights)
        self._phi_step(alpha, gradient)
        return losses

    def _real_step(self, batch: Batch, frozen: Frozen, matched: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
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
    def _written_step(self, batch: Batch, frozen: Frozen, matched: Tensor, alpha: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        assert self.written is not None
        state = self.state
        classification = self.written.classification(batch.train, batch.train_labels, state.params)
        matching = self.written.matching(frozen, matched, alpha, state.params)
        grads = torch._foreach_add(list(classification.grads), list(matching.grads), alpha=self.c.match_weight)
        state.params, state.buffers = sgd(state.params, state.buffers, grads, rule)
        return classification.loss, matching.loss

    def _phi_step(self, alpha: Tensor, gradient: Tensor) -> None:
        adam = self.state.adam
        assert adam is not None
        adam.zero_grad()
        alpha.backward(gradient)
        adam.step()

    @torch.no_grad()
    def scores(self) -> Tensor:
        """alpha [L, K]: each pair's mean over all meta images."""
        return torch.stack([self.state.phi(part).sum(0) for part in self.pooled.split(CHUNK)]).sum(0) / len(self.pooled)

    def _record(self, history: dict[str, list[float]], losses: list[tuple[Tensor, Tensor]]) -> None:
        means = torch.tensor([[float(a), float(b)] for a, b in losses]).mean(0)
        alpha = self.scores()
        if not (torch.isfinite(means).all() and torch.isfinite(alpha).all()):
            raise Diverged
        values = (*means.tolist(), float(alpha.mean()), float(alpha.min()), float(alpha.max()), float((alpha == 0).float().mean()))
        for name, value in zip(history, values, strict=True):
            history[name].append(value)
