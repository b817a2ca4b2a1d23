"""The sliding window: complete, seamless, and equal to MONAI's where both do the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.predictor import Predictor, decide
from napari_celltrain.engine.windows import window_starts
from napari_celltrain.nets.normalize import IntensityStatistics

PLAIN = IntensityStatistics(kind="zscore", offset=0.0, scale=1.0)


class Affine(nn.Module):
    """Depends on each voxel alone, so blending must give it back exactly."""

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([2 * x + channel for channel in range(self.num_outputs)], dim=1)


def predictor(network: nn.Module, window, num_outputs=1, batch_size=2) -> Predictor:
    return Predictor(network, num_outputs, window, torch.device("cpu"), NumericFormat(), batch_size)


def whole(parts) -> np.ndarray:
    parts = list(parts)
    position = 0
    for first, planes in parts:
        assert first == position, "planes come in order, each once"
        position += planes.shape[1]
    return np.concatenate([planes for _, planes in parts], axis=1)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20, 31, 100])
def test_windows_cover_everything_and_overlap_by_a_quarter(length):
    starts = window_starts(length, 8)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + 8] = True
    assert covered.all()
    assert all(0 <= start <= max(0, length - 8) for start in starts)
    assert all(after - before <= 6 for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize("shape", [(20, 30, 25), (8, 8, 8), (5, 30, 3), (1, 9, 9), (33, 8, 17)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_network_of_single_voxels_is_given_back_exactly(shape, batch_size):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    logits = whole(predictor(Affine(2), (8, 8, 8), 2, batch_size).logits(image, PLAIN))
    assert logits.shape == (2, *shape)
    np.testing.assert_allclose(logits[0], 2 * image, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits[1], 2 * image + 1, rtol=1e-5, atol=1e-5)


def test_one_window_equals_the_network_itself():
    torch.manual_seed(0)
    network = nn.Conv3d(1, 1, 3, padding=1)
    image = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    logits = whole(predictor(network, (8, 9, 10)).logits(image, PLAIN))
    with torch.no_grad():
        expected = network(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_it_agrees_with_monai_where_windows_lie_alike():
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 3, padding=1)).eval()
    image = np.random.default_rng(1).normal(size=(28, 16, 16)).astype(np.float32)  # planes 0 and 12 in both
    logits = whole(predictor(network, (16, 16, 16)).logits(image, PLAIN))
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(image)[None, None], (16, 16, 16), 2, network, overlap=0.25, mode="gaussian"
        )
    # towards y and x MONAI bounds the product of the weights from below, here each factor is: the middle is alike
    np.testing.assert_allclose(logits[..., 6:10, 6:10], theirs[0].numpy()[..., 6:10, 6:10], atol=5e-3)


def test_the_image_is_read_by_slices_and_normalized():
    class OnlySlices:
        shape, dtype = (20, 10, 10), np.dtype(np.uint16)

        def __getitem__(self, key):
            assert isinstance(key, tuple)
            assert all(isinstance(part, slice) for part in key)
            return np.full(self.shape, 300, np.uint16)[key]

    statistics = IntensityStatistics(kind="percentile", offset=100.0, scale=50.0)
    logits = whole(predictor(Affine(), (8, 8, 8)).logits(OnlySlices(), statistics))
    np.testing.assert_allclose(logits, 8.0, rtol=1e-5)


def test_the_threshold_is_one_of_probability_and_includes_equality():
    logits = np.array([[[[-1e-6, 0.0, 1e-6]]]], np.float32)
    assert decide(logits, 0.5).ravel().tolist() == [0, 1, 1]
    probability = predictor(Affine(), (8, 8, 8)).to_probabilities(np.array([[[[1.0, 2.0]]]], np.float32))
    limit = float(probability[0, 0, 0, 0] + probability[0, 0, 0, 1]) / 2
    assert decide(np.array([[[[1.0, 2.0]]]], np.float32), limit).ravel().tolist() == [0, 1]


def test_of_classes_the_most_probable_wins():
    logits = np.zeros((3, 1, 1, 2), np.float32)
    logits[2, 0, 0, 0] = logits[1, 0, 0, 1] = 1
    assert decide(logits, 0.5).ravel().tolist() == [2, 1]
    np.testing.assert_allclose(predictor(Affine(3), (8, 8, 8), 3).to_probabilities(logits).sum(axis=0), 1, rtol=1e-6)


def test_batches_are_counted_and_prediction_ends_where_that_raises():
    image = np.zeros((40, 8, 20), np.float32)
    seen = []

    def on_batch(number, total):
        seen.append((number, total))
        if number == stop_at:
            raise KeyboardInterrupt

    stop_at = None
    whole(predictor(Affine(), (8, 8, 8), batch_size=2).logits(image, PLAIN, on_batch))
    assert [number for number, _ in seen] == list(range(seen[0][1]))
    assert len({total for _, total in seen}) == 1
    stop_at = 3
    parts = []
    with pytest.raises(KeyboardInterrupt):
        parts.extend(predictor(Affine(), (8, 8, 8), batch_size=2).logits(image, PLAIN, on_batch))
    assert sum(planes.shape[1] for _, planes in parts) < 40
    assert seen[-1] == (3, seen[0][1])
