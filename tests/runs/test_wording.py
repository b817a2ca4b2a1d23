"""Events as lines for people."""

import pytest

from napari_celltrain.values.events import Finished, Started
from napari_celltrain.values.text import count, describe, duration

STARTED = Started(
    run="run",
    first_epoch=1,
    epochs=1,
    steps_per_epoch=1,
    num_training=1,
    num_validation=1,
    num_parameters=1000,
    model="unet",
    loss="dice_ce",
    patch_size=None,
    batch_size=2,
    device="CPU",
    numeric_format="float32",
)
FINISHED = Finished(
    reason="max-minutes",
    epoch=2,
    best_epoch=2,
    best_dice=0.9,
    best_f1=0.8,
    seconds=120,
    compute_share=0.85,
    validation_share=0.32,
    peak_memory_gb=1,
)


@pytest.mark.parametrize(("number", "expected"), [(0, "0 pairs"), (1, "1 pair"), (2, "2 pairs")])
def test_counted(number, expected):
    assert count(number, "pair") == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(4.16, "4.2 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (float("inf"), "?")],
)
def test_duration(seconds, expected):
    assert duration(seconds) == expected


def test_one_is_singular():
    line = describe(STARTED)
    assert line is not None
    assert "1 epoch of 1 step," in line
    assert "1 volume for training and 1 for validation" in line
    several = describe(STARTED.model_copy(update={"epochs": 2, "steps_per_epoch": 3, "num_training": 4}))
    assert several is not None
    assert "2 epochs of 3 steps," in several
    assert "4 volumes for training" in several


def test_the_end_says_of_what_each_share_is():
    line = describe(FINISHED)
    assert line is not None
    assert "Validation took 32% of the time; of the rest, 85% was spent in the network." in line
    assert "Finished after 2 min 00 s: the time it was given is over." in line
