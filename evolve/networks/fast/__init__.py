"""The door to what is fast: compiled kernels, written passes and captured graphs.

Other rooms import these five names and nothing below. Whether a network has fast passes says its
:meth:`evolve.networks.architecture.Architecture.fast`, what trains it its ``learner``.
"""

from evolve.networks.fast.counts import count_above
from evolve.networks.fast.graph_capture import Recorder
from evolve.networks.fast.graphed import Graphed
from evolve.networks.fast.images import image_batch
from evolve.networks.fast.point import Point

__all__ = ["Graphed", "Point", "Recorder", "count_above", "image_batch"]
