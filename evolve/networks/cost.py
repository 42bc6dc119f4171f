"""What training a network costs on one core, in seconds.

A training step of B images takes

    B * (3 * macs / speed + features * feature) + layers * layer + parameters * parameter

Here macs are the multiply-adds of a forward pass; the gradients of input and weights cost as much
each. Features are the numbers that all layers put out: BN, ReLU and pooling pass over them in
memory. Layers count the calls that cost time whatever their size. The update sweeps over the
parameters. The constants were fitted once to the table of docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolve.networks.architecture import Architecture


@dataclass(frozen=True)
class Rates:
    """What one core with AVX-512 does.

    Attributes:
        speed: giga multiply-adds a second in large layers.
        feature: seconds for a number that passes through BN, ReLU and pool, forward and back.
        layer: seconds for a layer's calls in a training step.
        parameter: seconds for the update of one parameter.
        matching: an image's matching of all pairs of layers, in training images of the
            pseudo-descendant.
    """

    speed: float
    feature: float
    layer: float
    parameter: float
    matching: float


COMPILED = Rates(58.0, 7e-10, 6e-5, 0.0, 4.1)  # VGGs; SGD's step is part of the weight gradient
LIBRARY = Rates(55.0, 7e-9, 4e-4, 1.6e-9, 1.85)
GAINED = {"resnet": 2.4, "vit": 1.5}  # what descendants gain over LIBRARY by passes of our own
EVAL_SHARE = 0.3  # of a training image's time: forward only, larger batches
CURVATURE = 2.2  # a Hessian product, beside a forward and backward pass


def rates_of(plan: Architecture) -> Rates:
    """The rates of an architecture, by who computes it: our kernels or the library's.

    Args:
        plan: the architecture.
    """
    return COMPILED if plan.passes else LIBRARY


@dataclass(frozen=True)
class Work:
    """What a network has to do.

    Attributes:
        plan: the network's architecture.
        size: pixels of an image's side.
        images: images that are trained on.
        steps: optimizer steps.
        tested: images that are tested.
    """

    plan: Architecture
    size: int
    images: float
    steps: float
    tested: float = 0.0

    def seconds(self) -> float:
        """Seconds on one core of the machine that the constants were fitted on."""
        rates = rates_of(self.plan)
        image = (
            3 * self.plan.macs(self.size) / rates.speed
            + self.plan.numbers_out(self.size) * rates.feature
        )
        step = len(self.plan.layer_names) * rates.layer + self.plan.parameters * rates.parameter
        return self.images * image + self.steps * step + self.tested * EVAL_SHARE * image
