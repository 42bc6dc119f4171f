"""Linear CKA: how alike the layers of the ancestor and of a pseudo-descendant became.

The pseudo-descendant learned without the ancestor. Source: Kornblith, Norouzi, Lee, Hinton,
"Similarity of Neural Network Representations Revisited" (ICML 2019), Eq. 3 to 5 with a linear
kernel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.condensers.batches import epoch_rows, evenly, steps_per_epoch
from evolve.condensers.interface import Condensed, Request, ancestor_diverged, scored
from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.meta_network import REPORT_EVERY, diverged
from evolve.core.randomness import generator
from evolve.data.resident import Resident
from evolve.networks.network import Network

IMAGES = 512
"""Meta images that are compared, at most: time and memory grow with their square."""
CHUNK = 128
"""Images whose features are in memory at a time, twice."""
CONSTANT = 1e-12
"""A layer's features are constant when centring leaves less than this part of its Gram matrix:
rounding.
"""


def cka(request: Request) -> Condensed:
    """Score pairs of layers by alpha^{l,k} = CKA(Z^l, z^k) over the meta images.

    All images enter one score. The pseudo-descendant was trained by cross-entropy alone. Where its
    loss stops being finite, the condensation ends as the meta-network's does.

    Args:
        request: the condensation to do.

    Raises:
        UserError: the ancestor's features are not finite.
    """
    pseudo = request.pseudo()
    losses = train(pseudo, request)
    if not all(map(math.isfinite, losses)):
        return diverged(request)
    index = evenly(request.split.meta, IMAGES)
    request.progress(1.0, f"comparing {len(index)} images")
    ancestor = grams(Features(request.ancestor(), request.groups), request.resident, index)
    if not torch.isfinite(ancestor).all():
        raise ancestor_diverged("features")
    descendant = grams(Features(pseudo.eval(), request.pseudo_groups), request.resident, index)
    return scored(
        request,
        linear_cka(ancestor, descendant).cpu(),
        {"classification": losses},
        request.c.selection,
    )


def train(pseudo: Network, request: Request) -> list[float]:
    """Train by cross-entropy on the condensing training data.

    The recipe is that of the meta-network's pseudo-descendant.

    Args:
        pseudo: the pseudo-descendant, trained in place.
        request: images, settings and seed.

    Returns:
        The mean loss of every epoch.
    """
    c, split, resident = request.c, request.split, request.resident
    pseudo.fused = not request.reference
    optimizer = torch.optim.SGD(
        pseudo.train().parameters(), lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
    )
    steps, losses = steps_per_epoch(len(split.train), c.batch), []
    for epoch in range(c.epochs):
        draws, total = (
            generator(request.seed, "condense-augment", epoch),
            torch.zeros((), device=resident.device),
        )
        for step, rows in enumerate(epoch_rows(len(split.train), c.batch, request.seed, epoch)):
            done = (epoch + step / steps) / c.epochs
            if step % REPORT_EVERY == 0:
                request.progress(done, f"epoch {epoch + 1} of {c.epochs}")
            optimizer.param_groups[0]["lr"] = c.lr * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad(set_to_none=True)
            images = resident.batch(split.train[rows], c.augment, draws)
            loss = F.cross_entropy(pseudo(images), split.train_labels[rows].to(resident.device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        losses.append(float(total) / steps)
    return losses


@torch.no_grad()
def grams(network: Features, resident: Resident, index: Tensor) -> Tensor:
    """The inner products of the images' flattened features, layer by layer.

    Whatever the number of images, the features of two chunks are in memory.

    Args:
        network: the layers whose features are compared.
        resident: the images.
        index: image indices [N].

    Returns:
        Gram matrices [layers, N, N], float64.
    """
    parts = index.split(CHUNK)
    products = torch.zeros(
        len(network.places), len(index), len(index), dtype=torch.float64, device=resident.device
    )
    for i, part in enumerate(parts):
        own = network(resident.batch(part))
        for j, other in enumerate(parts[i:], start=i):
            theirs = own if j == i else network(resident.batch(other))
            rows, columns = (slice(n * CHUNK, n * CHUNK + len(parts[n])) for n in (i, j))
            for layer, (a, b) in enumerate(zip(own, theirs, strict=True)):
                block = a.flatten(1).double() @ b.flatten(1).double().t()
                products[layer, rows, columns], products[layer, columns, rows] = block, block.t()
    return products


def linear_cka(left: Tensor, right: Tensor) -> Tensor:
    """CKA of every pair of layers: <A, B> / (|A| |B|) of their centred Gram matrices.

    Args:
        left: Gram matrices [L, N, N].
        right: Gram matrices [K, N, N].

    Returns:
        [L, K], in 0..1; 0 where a layer's features are constant.
    """
    a, b = (_unit(grams) for grams in (left, right))
    return a.flatten(1) @ b.flatten(1).t()


def _unit(grams: Tensor) -> Tensor:
    """Centred, of norm 1; 0 for constant features."""
    centred = (
        grams
        - grams.mean(1, keepdim=True)
        - grams.mean(2, keepdim=True)
        + grams.mean((1, 2), keepdim=True)
    )
    size, before = (torch.linalg.matrix_norm(matrix)[:, None, None] for matrix in (centred, grams))
    return torch.where(size > CONSTANT * before, centred / size, torch.zeros_like(centred))
