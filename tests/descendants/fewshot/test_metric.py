"""The learners that compare embeddings, against scikit-learn and sums by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from colours import QUICK, WAYS, network
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid

from evolve.descendants.fewshot.baseline import cosine_scores
from evolve.descendants.fewshot.learner import means
from evolve.descendants.fewshot.measure import make_learner


def embeddings(seed, shots=4, queries=30):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS).repeat_interleave(shots)[
        torch.randperm(WAYS * shots, generator=draw)
    ]
    return (
        torch.rand(len(labels), 8, generator=draw),
        labels,
        torch.rand(queries, 8, generator=draw),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_protonet_chooses_scikit_learns_nearest_centroid(seed, shots):
    support, labels, query = embeddings(seed, shots)
    chosen = (
        make_learner("protonet", network(), QUICK, WAYS, 0)
        .log_probabilities(support, labels, query)
        .argmax(1)
    )
    peer = NearestCentroid().fit(support.double().numpy(), labels.numpy())
    assert np.allclose(peer.centroids_, means(support, labels, WAYS), atol=1e-6)
    assert np.array_equal(chosen.numpy(), peer.predict(query.double().numpy()))


def test_protonet_by_hand():
    support, labels = (
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 5.0]]),
        torch.tensor([0, 0, 1, 1]),
    )
    result = make_learner("protonet", network(), QUICK, 2, 0).log_probabilities(
        support, labels, torch.tensor([[0.0, 1.0]])
    )
    assert torch.allclose(
        result, torch.tensor([[-2.0, -9.0]]).log_softmax(1)
    )  # centres (1, 0) and (0, 4)


def test_matchingnet_is_the_attention_over_scikit_learns_cosines():
    support, labels, query = embeddings(1)
    learner = make_learner("matchingnet", network(), QUICK, WAYS, 0)
    attention = np.exp(
        QUICK.attention_scale * (cosine_similarity(query.double(), support.double()) - 1)
    )
    attention /= attention.sum(1, keepdims=True)
    expected = attention @ np.eye(WAYS)[labels.numpy()]
    assert np.allclose(learner.log_probabilities(support, labels, query).exp(), expected, atol=1e-4)


def test_protonet_and_matchingnet_are_easyfsls():
    """Its ProtoNet scores by the distance, ours by its square (Snell's Eq. 2).

    Its MatchingNet leaves the queries as long as they are, and here skips the LSTMs: f = g.
    """
    methods = pytest.importorskip("easyfsl.methods", reason="easyfsl is not installed")
    support, labels, query = embeddings(3)
    peer = methods.PrototypicalNetworks()
    peer.process_support_set(support, labels)
    own = make_learner("protonet", network(), QUICK, WAYS, 0)
    expected = (-peer(query).square()).log_softmax(1)
    assert torch.allclose(own.log_probabilities(support, labels, query), expected, atol=1e-5)

    class Matching(methods.MatchingNetworks):
        encode_support_features = encode_query_features = staticmethod(lambda features: features)

    match, scale = Matching(feature_dimension=8), 10.0
    match.process_support_set(support, labels)
    own = make_learner("matchingnet", network(), replace(QUICK, attention_scale=scale), WAYS, 0)
    scaled = scale * torch.nn.functional.normalize(query)
    result = own.log_probabilities(support, labels, query).exp()
    assert torch.allclose(result + 1e-6, match(scaled).exp(), atol=1e-5)


def test_baseline_plus_plus_scores_are_scaled_cosines():
    support, _, query = embeddings(2)
    assert np.allclose(
        cosine_scores(query, support, 10.0), 10 * cosine_similarity(query, support), atol=1e-5
    )


@pytest.mark.parametrize("steps, right", [(0, False), (100, True)])
def test_baseline_plus_plus_learns_a_new_head(steps, right):
    """Classes that lie in different directions are told apart after the head's training, not
    before.
    """
    learner = make_learner("baseline++", network(), replace(QUICK, tune_steps=steps), WAYS, 0)
    labels = torch.arange(WAYS).repeat(3)
    support = torch.nn.functional.one_hot(labels, learner.features).float()
    head = learner.head(support, labels, torch.Generator().manual_seed(0))
    assert bool((cosine_scores(support, head, 10.0).argmax(1) == labels).all()) == right
