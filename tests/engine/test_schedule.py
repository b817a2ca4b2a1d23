"""The learning rate, step by step."""

from __future__ import annotations

import pytest

from napari_celltrain.engine.learner import FLOOR, learning_rate_at
from napari_celltrain.values.config import TrainingConfig


def test_cosine_rises_to_the_largest_rate_and_falls_to_the_floor():
    config = TrainingConfig(learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate_at(config, step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.1 / 11)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 10
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1 * FLOOR)
    assert learning_rate_at(config, 5000, 1000) == pytest.approx(0.1 * FLOOR)


def test_the_warm_up_takes_at_most_a_quarter_of_a_short_run():
    config = TrainingConfig(learning_rate=0.1, warmup_steps=50)
    assert learning_rate_at(config, 2, 8) == pytest.approx(0.1)


def test_plateau_halves_and_constant_stays():
    plateau = TrainingConfig(learning_rate=0.1, warmup_steps=0, schedule="plateau")
    rates = [learning_rate_at(plateau, 500, 1000, halvings) for halvings in (0, 1, 2, 99)]
    assert rates == pytest.approx([0.1, 0.05, 0.025, 0.001])
    constant = TrainingConfig(learning_rate=0.1, warmup_steps=0, schedule="constant")
    assert learning_rate_at(constant, 999, 1000) == pytest.approx(0.1)
