"""The CPU's trainer: passes written out (:mod:`evolve.networks.fused`), all parameters in one flat tensor, several small networks as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.networks.fused import Fused, Statistics, Weights, orders
from evolve.networks.kernels import PLACE
from evolve.networks.plan import Plan
from evolve.networks.vgg import VGG
from evolve.training.group import Group, padded_tests
from evolve.training.plain import TEST_BATCH
from evolve.training.width import together

CHUNK = 1 << 16
"""Numbers of the flat parameters that the update takes at a time: parameters and momentum stay in the cache between its three sweeps."""
KEPT_BYTES = 64 * 2**20
"""Normalised test images are kept from epoch to epoch up to this size."""


def crews(plans: Sequence[Plan], numbers: Sequence[int]) -> list[range]:
    """Who passes with whom: neighbours of one plan and one generation (in which numbers rise), so that company of another
    generation does not change how a descendant is rounded.
    """
    parts: list[range] = []
    start = 0
    for end in range(1, len(plans) + 1):
        if end == len(plans) or plans[end] != plans[start] or numbers[end] <= numbers[end - 1]:
            width = together(plans[start], end - start)
            parts += [range(first, first + width) for first in range(start, end, width)]
            start = end
    return parts


class FusedTrainer:
    """A :class:`evolve.training.group.Trainer` for models on the CPU, in float32 or float64."""

    def __init__(self, models: Sequence[VGG], group: Group) -> None:
        self.crews = [Crew(models[part.start : part.stop], group, part) for part in crews([model.plan for model in models], group.numbers)]

    def epoch(self, epoch: int) -> list[float]:
        return [loss for crew in self.crews for loss in crew.epoch(epoch)]

    def correct(self) -> list[Tensor]:
        return [right for crew in self.crews for right in crew.correct()]

    def close(self) -> None:
        for crew in self.crews:
            crew.close()


@dataclass(frozen=True)
class Flat:
    """One network's or crew's parameters as views into one tensor."""

    values: Tensor
    weights: Weights

    @staticmethod
    def zeros(plan: Plan, classes: int, groups: int, size: int, dtype: torch.dtype) -> Flat:
        """For images of ``size`` pixels. Where a block is in place order each tap of a weight lies by itself, as its products read it."""
        specs = [spec for block in plan for spec in block]
        tapped = [order == PLACE for block, order in zip(plan, orders(plan, size, groups), strict=True) for _ in block]
        shapes = [(3, 3, s.c_out, s.c_in) if taps else (groups * s.c_out, 3, 3, s.c_in) for s, taps in zip(specs, tapped, strict=True)]
        shapes += [(groups * s.c_out,) for _ in range(3) for s in specs]  # type: ignore[misc]
        shapes += [(groups, classes, specs[-1].c_out), (groups, classes)]  # type: ignore[list-item]
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        values = torch.zeros(sum(sizes), dtype=dtype)
        views = [part.view(shape) for part, shape in zip(values.split(sizes), shapes, strict=True)]
        n = len(specs)
        conv = [view.permute(2, 3, 0, 1) if taps else view.permute(0, 3, 1, 2) for view, taps in zip(views[:n], tapped, strict=True)]
        return Flat(values, Weights(conv, views[n : 2 * n], views[2 * n : 3 * n], views[3 * n : 4 * n], views[-2], views[-1]))


class Crew:
    """Some members of a group, ``members``, that pass together."""

    def __init__(self, models: Sequence[VGG], group: Group, members: Sequence[int]) -> None:
        self.models, self.group, self.members = models, group, members
        plan, head = models[0].plan, models[0].head.weight
        self.plan, self.size, self.dtype = plan, group.resident.size, head.dtype
        self.parameters = Flat.zeros(plan, len(head), len(models), self.size, head.dtype)
        self.momentum = Flat.zeros(plan, len(head), len(models), self.size, head.dtype)
        self.statistics = Statistics(_gather(models, "running_mean"), _gather(models, "running_var"))
        self.steps = 0
        self._passes: dict[int, Fused] = {}
        self._tests: list[Tensor] = []
        self._places, self._truth = padded_tests([group.tasks[member] for member in members])
        self._load()
        # The momentum already holds the next step's decay, so that a gradient only has to be added (see _update).
        self.momentum.values.add_(self.parameters.values, alpha=group.d.weight_decay)

    def epoch(self, epoch: int) -> list[float]:
        group = self.group
        steps = list(zip(*(group.batches(member, epoch) for member in self.members), strict=True))
        draws = [group.augmentation(member, epoch) for member in self.members]
        total = torch.zeros(len(self.members), dtype=torch.float64)
        for step, places in enumerate(steps):
            images = self._images(places, draws)
            labels = torch.stack([group.tasks[member].train_labels[places[n]] for n, member in enumerate(self.members)])
            total += self._step(images, labels, group.rate(epoch, step)) * labels.shape[1]
        return (total / group.images).tolist()

    def _images(self, places: Sequence[Tensor], draws: Sequence[torch.Generator]) -> Tensor:
        """The members' batches, [B, G * 3, S, S]: drawn member by member, gathered, cropped and flipped all at once."""
        group, resident = self.group, self.group.resident
        index = torch.cat([group.tasks[member].train[place] for member, place in zip(self.members, places, strict=True)])
        drawn = [resident.draw(len(place), group.d.augment, draw) for place, draw in zip(places, draws, strict=True)]
        shifts, flips = [shift for shift, _ in drawn if shift is not None], [flip for _, flip in drawn if flip is not None]
        images = resident.gather(index, torch.cat(shifts, 1) if shifts else None, torch.cat(flips) if flips else None)
        return interleaved(images.to(self.dtype), len(places))

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One optimizer step on images [B, G * 3, S, S] and labels [G, B]; each member's loss, float64 [G]."""
        passes, weights = self._pass(len(images)), self.parameters.weights
        logits, trace = passes.forward(weights, self.statistics, images)
        scores = torch.log_softmax(logits, 2)
        truth = labels.unsqueeze(2)
        gradient = scores.exp().scatter_add_(2, truth, torch.full_like(scores[:, :, :1], -1)).div_(labels.shape[1])
        passes.backward(weights, trace, gradient, self.momentum.weights)
        self._update(rate)
        self.steps += 1
        return -scores.gather(2, truth).double().mean((1, 2))

    def _update(self, rate: float) -> None:
        """SGD with momentum m and decay w, as torch.optim.SGD: b' = m b + g + w p; p' = p - rate b'.

        The momentum tensor holds m b + w p when the backward pass begins to add g. It is read and written once for the step just made
        and the next one's decay, part by part: at full width memory is slower than all the rest of the update.
        """
        d = self.group.d
        for p, b in zip(self.parameters.values.split(CHUNK), self.momentum.values.split(CHUNK), strict=True):
            p.add_(b, alpha=-rate)
            b.mul_(d.momentum).add_(p, alpha=d.weight_decay)

    def _pass(self, batch: int) -> Fused:
        if batch not in self._passes:
            self._passes[batch] = Fused(self.plan, self.size, batch, len(self.models))
        return self._passes[batch]

    def correct(self) -> list[Tensor]:
        found = []
        for number, (places, truth) in enumerate(zip(self._places.split(TEST_BATCH, 1), self._truth.split(TEST_BATCH, 1), strict=True)):
            logits = self._pass(places.shape[1]).evaluate(self.parameters.weights, self.statistics, self._test_images(number, places))
            found.append(logits.argmax(2) == truth)
        return [right[: len(self.group.tasks[member].test)] for member, right in zip(self.members, torch.cat(found, 1), strict=True)]

    def _test_images(self, number: int, places: Tensor) -> Tensor:
        if number < len(self._tests):
            return self._tests[number]
        images = interleaved(self.group.resident.batch(places.flatten()).to(self.dtype), len(self.members))
        if images.nbytes // places.shape[1] * self._places.shape[1] <= KEPT_BYTES:
            self._tests.append(images)
        return images

    @torch.no_grad()
    def _load(self) -> None:
        for own, given in self._pairs():
            own.copy_(given)

    @torch.no_grad()
    def close(self) -> None:
        for own, given in self._pairs():
            given.copy_(own)
        for model in self.models:
            for unit in model.units:
                unit.bn.num_batches_tracked.add_(self.steps)  # type: ignore[union-attr]

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every own view with the model's tensor that it stands for."""
        pairs, w, s = [], self.parameters.weights, self.statistics
        for n, model in enumerate(self.models):
            for layer, unit in enumerate(model.units):
                bn = unit.bn
                given = (unit.conv.weight, unit.conv.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var)
                own = (w.conv[layer], w.bias[layer], w.gamma[layer], w.beta[layer], s.mean[layer], s.var[layer])
                pairs += [(o.chunk(len(self.models))[n], g) for o, g in zip(own, given, strict=True)]
            pairs += [(w.head[n], model.head.weight), (w.head_bias[n], model.head.bias)]
        return pairs  # type: ignore[return-value]


def _gather(models: Sequence[VGG], name: str) -> list[Tensor]:
    layers = zip(*(model.units for model in models), strict=True)
    return [torch.cat([getattr(unit.bn, name) for unit in units]) for units in layers]


def interleaved(images: Tensor, groups: int) -> Tensor:
    """The networks' batches one after the other, [G * B, 3, S, S], as channels side by side, [B, G * 3, S, S]; both channels_last."""
    if groups == 1:
        return images
    apart = images.permute(0, 2, 3, 1).unflatten(0, (groups, -1))
    return apart.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)
