"""DeepEMD's parts against scipy's linear programme, numpy's correlation and finite differences."""

from dataclasses import replace

import numpy as np
import torch
from colours import QUICK, SIZE, WAYS, network
from scipy.optimize import linprog

from evolve.core.fewshot_settings import FewshotSettings
from evolve.descendants.fewshot.deepemd import descriptors, flows, scores, similarities, weights
from evolve.descendants.fewshot.learner import means
from evolve.descendants.fewshot.measure import make_learner
from evolve.descendants.fewshot.pretrain import tuned
from evolve.networks.family import architecture
from evolve.networks.network import initialise


def sets(places=4, other=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = (3, places, 6), (2, other, 6)
    return tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) + 0.5 for shape in shapes)


def programme(similarity, supply, demand):
    n, m = similarity.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    limits = np.concatenate([supply, demand])
    return linprog((1 - similarity).ravel(), A_eq=np.vstack([rows, columns]), b_eq=limits).fun


def test_the_flow_is_scipys_optimum():
    query, proto = sets()
    similarity, supply, demand = (
        similarities(query, proto),
        weights(query, proto),
        weights(proto, query).transpose(0, 1),
    )
    flow = flows(similarity, supply, demand)
    assert torch.allclose(flow.sum(3), supply) and torch.allclose(flow.sum(2), demand)
    assert torch.allclose(supply.sum(2), torch.tensor(4.0, dtype=torch.float64))
    costs = (flow * (1 - similarity)).sum((2, 3))
    for b, k in np.ndindex(3, 2):
        assert (
            abs(
                costs[b, k].item()
                - programme(similarity[b, k].numpy(), supply[b, k].numpy(), demand[b, k].numpy())
            )
            < 1e-6
        )


def test_weights_that_float32_rounds_are_still_transported():
    draw = torch.Generator().manual_seed(0)
    query, proto = (torch.rand(20, 17, 6, generator=draw) + 1 for _ in range(2))
    result = scores(query, proto, 12.5)
    assert torch.isfinite(result).all() and torch.allclose(
        result, scores(query.double(), proto.double(), 12.5).float(), atol=1e-3
    )


def test_one_place_each_is_the_correlation_of_the_channels():
    query, proto = sets(1, 1)
    expected = [[np.corrcoef(q[0], p[0])[0, 1] for p in proto.numpy()] for q in query.numpy()]
    assert np.allclose(scores(query, proto, 12.5), 12.5 * np.array(expected))


def test_weights_are_the_cross_reference():
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    proto = torch.tensor(
        [[[3.0, -1.0], [1.0, -1.0]]]
    )  # mean (2, -1): the second place of the query points away from it
    result = weights(query, proto)[0, 0]
    assert torch.allclose(result, torch.tensor([2.001, 0.001]) * 2 / 2.002)


def test_the_gradient_of_the_score_in_the_similarities_is_the_flow():
    query, proto = sets(3, 3, seed=5)
    similarity, supply, demand = (
        similarities(query, proto),
        weights(query, proto),
        weights(proto, query).transpose(0, 1),
    )
    flow, step = flows(similarity, supply, demand), 1e-6
    for place in ((0, 0, 1, 2), (2, 1, 0, 0), (1, 0, 2, 1)):
        moved = similarity.clone()
        moved[place] += step
        rise = (
            (flows(moved, supply, demand) * moved).sum((2, 3)) - (flow * similarity).sum((2, 3))
        ).sum() / step
        assert abs(rise.item() - flow[place].item()) < 1e-4


def test_an_image_is_nearest_to_itself_wherever_its_places_went():
    query, proto = sets()
    shuffled = torch.cat([query[:1, torch.tensor([2, 0, 3, 1])], proto])
    assert scores(query[:1], shuffled, 1.0).argmax(1).item() == 0
    assert abs(scores(query[:1], shuffled, 12.5)[0, 0].item() - 12.5) < 1e-6


def test_descriptors_are_the_last_maps_pixels():
    net, x = network().eval(), torch.rand(2, 3, 2 * SIZE, 2 * SIZE)
    result = descriptors(net, x)
    assert result.shape == (2, 4, net.head.in_features)
    assert torch.equal(result[1, 3], net.features(x)[-1][1, :, 1, 1])


def test_structured_prototypes_start_as_means_and_lower_the_supports_loss():
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(WAYS).repeat_interleave(5)
    support = torch.rand(20, 4, 6, generator=draw) + torch.eye(6)[labels][:, None] * 0.3

    def loss(steps):
        learner = make_learner(
            "deepemd", network(), replace(QUICK, emd_steps=steps, emd_lr=0.1), WAYS, 0
        )
        proto = learner.prototypes(support, labels, torch.Generator().manual_seed(0))
        return torch.nn.functional.cross_entropy(scores(support, proto, 12.5), labels).item()

    assert loss(40) < loss(0) - 0.05


def real(shots):
    """VGG8's descriptors of 5 classes of noisy colours at 32 pixels, with their labels, and a
    learner at the defaults, but few passes.
    """
    net = architecture("vgg16", 1.0, 32).paper_descendant().build(5)
    initialise(net, 0, "test")
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(shots)
    images = torch.rand(5, 3, 1, 1, generator=draw)[labels] + torch.randn(
        5 * shots, 3, 32, 32, generator=draw
    )
    with torch.no_grad():
        support = descriptors(net.eval(), images)
    return (
        support,
        labels,
        make_learner("deepemd", net, replace(FewshotSettings(), emd_steps=4), 5, 0),
    )


def test_the_structured_layer_moves_on_a_real_backbone_at_the_default_rate():
    """Ten images a class in batches of 4: 13 steps a pass, the authors' count; at a rate of 0.1
    nothing moved.
    """
    support, labels, learner = real(10)
    start, learned = (
        means(support, labels, 5),
        learner.prototypes(support, labels, torch.Generator().manual_seed(0)),
    )
    before, after = (
        torch.nn.functional.cross_entropy(scores(support, proto, 12.5), labels).item()
        for proto in (start, learned)
    )
    assert (learned - start).norm() > 0.05 * start.norm() and after < 0.9 * before


def test_a_single_image_a_class_is_its_own_prototype():
    support, labels, learner = real(1)
    assert torch.equal(
        learner.prototypes(support, labels, torch.Generator()), means(support, labels, 5)
    )


def test_steps_are_passes_over_the_support_set():
    seen = []

    def matched(part, weight):
        seen.append(part.flatten().tolist())
        return part * weight

    tuned(
        torch.ones(1),
        matched,
        torch.arange(10.0)[:, None].expand(10, 2),
        torch.zeros(10, dtype=torch.int64),
        3,
        4,
        torch.Generator(),
        lr=0.1,
    )
    assert [len(part) // 2 for part in seen] == [4, 4, 2] * 3
    assert sorted(sum(seen[:3], [])) == sorted([float(n) for n in range(10)] * 2)
