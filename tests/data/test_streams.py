from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from evolve.core.errors import UserError
from evolve.core.settings import StreamSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.data.streams import class_labels, labels_of, make_benchmark, stream_tasks

CLASSES = (1, 3, 4, 6, 8, 9, 10)


@pytest.fixture(scope="module")
def resident() -> Resident:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 9)
    pixels = draw.integers(0, 256, (len(labels), 3, 8, 8), dtype=np.uint8)
    is_test = np.tile(np.arange(9) >= 6, 12)
    names = tuple(f"c{n}" for n in range(12))
    return Resident(
        ImageSet("noise", pixels, labels, is_test, names, "00", (0.5,) * 3, (0.25,) * 3),
        torch.device("cpu"),
    )


def test_a_task_does_not_depend_on_how_many_are_asked_for(resident: Resident) -> None:
    s = StreamSettings(classes_per_task=3, images_per_class=4)
    short, long = (
        stream_tasks(s, CLASSES, resident, 5, 2),
        stream_tasks(s, CLASSES, resident, 5, 20),
    )
    assert [t.classes for t in short] == [t.classes for t in long[:2]]
    assert all(torch.equal(a.train, b.train) for a, b in zip(short, long, strict=False))
    assert [t.number for t in long] == list(range(1, 21))
    assert [t.classes for t in long] != [
        t.classes for t in stream_tasks(s, CLASSES, resident, 6, 20)
    ]


def test_tasks_are_drawn_independently_so_classes_recur(resident: Resident) -> None:
    tasks = stream_tasks(StreamSettings(classes_per_task=3), CLASSES, resident, 0, 200)
    assert all(len(set(t.classes)) == 3 and set(t.classes) <= set(CLASSES) for t in tasks)
    seen = np.bincount([c for t in tasks for c in t.classes], minlength=12)[list(CLASSES)]
    assert seen.min() > 50 and seen.max() < 125  # 600 draws over 7 classes: 86 each, sd 7
    assert len({t.classes for t in tasks}) > 100


def test_images_are_the_classes_own_and_train_and_test_never_mix(resident: Resident) -> None:
    for task in stream_tasks(
        StreamSettings(classes_per_task=4, images_per_class=5), CLASSES, resident, 1, 5
    ):
        assert len(task.train) == 20 and len(task.test) == 12
        assert (
            set(resident.labels[task.train].tolist())
            == set(task.classes)
            == set(resident.labels[task.test].tolist())
        )
        for class_id in task.classes:
            assert (
                set(task.train.tolist()) & set(resident.indices(class_id, test=True).tolist())
                == set()
            )


def test_a_class_brings_the_same_images_to_every_task(resident: Resident) -> None:
    tasks = stream_tasks(
        StreamSettings(classes_per_task=4, images_per_class=2), CLASSES, resident, 1, 12
    )
    images: dict[int, set[tuple[int, ...]]] = {}
    for task in tasks:
        for place, class_id in enumerate(task.classes):
            images.setdefault(class_id, set()).add(
                tuple(task.train[2 * place : 2 * place + 2].tolist())
            )
    assert all(len(sets) == 1 for sets in images.values())


@pytest.mark.parametrize(
    ("settings", "name", "limit"),
    [
        (StreamSettings(classes_per_task=8), "stream.classes_per_task = 8", "7"),
        (
            StreamSettings(classes_per_task=3, images_per_class=7),
            "stream.images_per_class = 7",
            "6",
        ),
    ],
)
def test_too_much_asked_for_is_named_with_its_limit(
    resident: Resident, settings: StreamSettings, name: str, limit: str
) -> None:
    with pytest.raises(UserError, match=name) as caught:
        stream_tasks(settings, CLASSES, resident, 0, 1)
    assert limit in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("head", ["shared", "per-task", "single"])
def test_the_benchmark_has_each_tasks_images_labels_and_task_labels(
    resident: Resident, head: str
) -> None:
    tasks = stream_tasks(StreamSettings(classes_per_task=3), CLASSES, resident, 2, 3)
    benchmark = make_benchmark(tasks, resident, head, CLASSES)
    for stream, part in ((benchmark.train_stream, "train"), (benchmark.test_stream, "test")):
        for task, experience in zip(tasks, stream, strict=True):
            index, data = getattr(task, part), experience.dataset
            assert list(data.resident_index) == index.tolist()
            for place in (0, len(index) - 1):
                pixels, label, task_label = data[place]
                class_id = int(resident.labels[index[place]])
                assert torch.equal(pixels, resident.batch(index[place : place + 1])[0])
                assert label == (
                    CLASSES.index(class_id) if head == "single" else task.classes.index(class_id)
                )
                assert task_label == (task.number - 1 if head == "per-task" else 0)
    joined = (
        benchmark.train_stream[0].dataset.concat(benchmark.train_stream[1].dataset).subset([0, 18])
    )
    assert list(joined.resident_index) == [int(tasks[0].train[0]), int(tasks[1].train[0])]


def test_labels_follow_the_class_order_of_the_head(resident: Resident) -> None:
    task = stream_tasks(StreamSettings(classes_per_task=3), CLASSES, resident, 2, 1)[0]
    local = labels_of(task.train, class_labels(task, "shared", CLASSES), resident)
    assert local.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    everywhere = labels_of(task.train, class_labels(task, "single", CLASSES), resident)
    assert [sorted(CLASSES)[label] for label in everywhere.tolist()] == resident.labels[
        task.train
    ].tolist()


@pytest.mark.slow
def test_avalanche_is_imported_without_a_home_folder_to_write_to() -> None:
    code = (
        "import os, tempfile; from evolve.data.streams import load_avalanche; real = "
        "os.path.expanduser; load_avalanche(); "
        "assert os.path.expanduser is real; assert real('~') == '/proc/none'; import avalanche; "
        "from avalanche.benchmarks.datasets import dataset_utils as d; "
        "print(d.AVALANCHE_CONFIG_FILENAME)"
    )
    environment = os.environ | {
        "HOME": "/proc/none",
        "MPLCONFIGDIR": "/tmp",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(os.path.dirname(done.stdout.strip()))  # the temporary folder is gone
