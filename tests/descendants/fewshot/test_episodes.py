"""Episodes hold the ancestor's training images alone, and support and queries share none."""

from dataclasses import replace

import pytest
import torch
from colours import ANCESTOR, QUICK, TRAIN, WAYS, measure, network, resident, task

from evolve.core.errors import UserError
from evolve.core.settings import StreamSettings
from evolve.data.streams import stream_tasks
from evolve.descendants.fewshot.episodes import Episodes


def episodes(settings=QUICK, ways=WAYS, classes=ANCESTOR, seed=0):
    return Episodes(resident(), classes, ways, settings, seed)


def places(images):
    """Which resident image each row is (all differ by their noise)."""
    everything = resident().batch(torch.arange(len(resident().labels))).flatten(1)
    return torch.cdist(images.flatten(1), everything).argmin(1)


def test_an_episode_is_of_the_ancestors_training_images():
    training = torch.cat([resident().indices(c, test=False) for c in ANCESTOR]).tolist()
    seen = set()
    for number in range(12):
        episode = episodes().episode(number)
        support, query = places(episode.support), places(episode.query)
        drawn = torch.cat([support, query]).tolist()
        assert len(set(drawn)) == len(drawn) == WAYS * (QUICK.shots + QUICK.queries)
        assert set(drawn) <= set(training)
        for index, labels in ((support, episode.support_labels), (query, episode.query_labels)):
            own = resident().labels[index]
            assert (
                all(len(own[labels == k].unique()) == 1 for k in range(WAYS))
                and len(own.unique()) == WAYS
            )
        seen |= set(drawn)
    assert len(seen) > len(training) / 2  # not the same few ones every time


def test_an_episode_does_not_depend_on_those_before_it():
    first, second = episodes(), episodes()
    first.episode(0), first.episode(1)
    assert torch.equal(first.episode(5).query, second.episode(5).query)
    assert not torch.equal(first.episode(5).query, second.episode(6).query)
    assert not torch.equal(first.episode(5).query, episodes(seed=1).episode(5).query)


def test_an_epoch_sees_every_training_image_once():
    pairs = [pair for pair in episodes().epoch(0)]
    index = torch.cat([index for index, _ in pairs])
    assert sorted(index.tolist()) == sorted(
        torch.cat([resident().indices(c, test=False) for c in ANCESTOR]).tolist()
    )
    assert torch.equal(
        torch.tensor(ANCESTOR)[torch.cat([labels for _, labels in pairs])], resident().labels[index]
    )
    assert len(pairs) == episodes().steps


def test_augmentation_is_asked_for():
    plain, cropped = episodes().episode(0), episodes(replace(QUICK, augment=("crop",))).episode(0)
    assert not torch.equal(plain.support, cropped.support)


def test_too_few_classes_or_images_are_named_before_anything_is_trained():
    with pytest.raises(UserError, match=r"descend\.classes_per_task = 19: .*18 ancestor classes"):
        episodes(ways=19).check()
    asking = replace(QUICK, shots=20)
    with pytest.raises(
        UserError,
        match=rf"fewshot\.shots = 20 and fewshot\.queries = 5: ancestor class \d+ has {TRAIN} "
        r"training images",
    ):
        measure("protonet", network(), ANCESTOR, [task(0)], asking, progress=pytest.fail)
    episodes(replace(QUICK, shots=TRAIN - QUICK.queries)).check()
    some = replace(asking, pretrain_epochs=0, tune_steps=0)
    assert measure("baseline++", network(), ANCESTOR, [task(0)], some).losses == []  # no episodes


def test_learners_see_the_images_of_a_class_that_the_ancestor_sees():
    capped = Episodes(resident(), ANCESTOR, WAYS, QUICK, 0, 9)
    stream = StreamSettings(tasks=1, classes_per_task=len(ANCESTOR), images_per_class=9)
    ancestors = sorted(stream_tasks(stream, ANCESTOR, resident(), 0, 1)[0].train.tolist())
    assert sorted(torch.cat([index for index, _ in capped.epoch(0)]).tolist()) == ancestors
    seen = [
        places(torch.cat([episode.support, episode.query])).tolist()
        for episode in map(capped.episode, range(8))
    ]
    assert {place for drawn in seen for place in drawn} <= set(ancestors)
    with pytest.raises(
        UserError, match=r"ancestor class \d+ has 9 training images \(stream\.images_per_class\)"
    ):
        Episodes(resident(), ANCESTOR, WAYS, replace(QUICK, shots=5), 0, 9).check()


@pytest.mark.parametrize("name", ["protonet", "baseline++"])
def test_capped_images_change_what_is_learned(name):
    short = replace(QUICK, episodes=2, pretrain_epochs=1)
    every, some = (
        measure(name, network(), ANCESTOR, [task(0)], short, images_per_class=count).losses
        for count in (0, 9)
    )
    assert every != some
