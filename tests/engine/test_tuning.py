import numpy as np

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.engine.objects import decode
from napari_celltrain.engine.validation import (
    Setting,
    Tuner,
    TuningVolume,
    _best_size,
    evaluate,
    limited,
    num_candidates,
)
from napari_celltrain.values.decoding import ObjectDecoding
from touching import SPACING, touching_balls

FIRST = Setting(0.5, ObjectDecoding(method="learned", smoothing_um=0.5, seed_distance_um=2, context_um=14))


def volume(seed: int = 0) -> TuningVolume:
    maps, labels = touching_balls(seed, shape=(14, 40, 44), number=30)
    return TuningVolume(maps, labels, SPACING)


def tuned(tuner: Tuner) -> Tuner:
    for _ in tuner.run():
        pass
    assert tuner.best is not None
    return tuner


def test_what_is_chosen_is_better_than_connected_pieces_and_scores_as_it_says():
    volumes = [volume(0), volume(1)]
    tuner = tuned(Tuner(volumes, "objects", FIRST))
    pieces = evaluate(volumes, Setting(0.5, ObjectDecoding(method="components")))
    assert tuner.f1 > pieces[1] + 0.2
    assert tuner.f1 > 0.9
    assert evaluate(volumes, tuner.best)[1] == tuner.f1


def test_a_network_of_foreground_alone_never_gets_the_learned_way():
    best = tuned(Tuner([volume()], "foreground", FIRST)).best
    assert best.decoding.method in ("watershed", "components")


def test_where_objects_lie_apart_and_the_rest_is_nonsense_pieces_are_chosen():
    maps, labels = touching_balls(0, shape=(14, 60, 64), number=6, radius=3)
    maps[1] = np.random.default_rng(0).integers(0, 255, maps[1].shape)
    assert tuned(Tuner([TuningVolume(maps, labels, SPACING)], "objects", FIRST)).f1 == 1


def test_equal_searches_find_the_same():
    one, other = (tuned(Tuner([volume()], "objects", FIRST)) for _ in range(2))
    assert (one.best, one.f1) == (other.best, other.f1)


def test_progress_never_exceeds_what_was_announced():
    tuner = Tuner([volume()], "objects", FIRST)
    assert max(tuner.run()) <= num_candidates("objects")


def test_the_smallest_size_is_where_f1_is_highest():
    sizes = np.array([1.0, 2.0, 10.0, 20.0])
    hits = np.array([0.0, 0.2, 0.8, 0.9])
    score, f1, limit = _best_size(sizes, hits, np.array([10.0, 20.0]))
    assert f1 == 1
    assert 2 < limit < 10
    assert score > f1


def test_nothing_is_left_out_where_that_gains_nothing():
    sizes, hits = np.array([1.0, 5.0]), np.array([0.8, 0.9])
    assert _best_size(sizes, hits, sizes)[2] == 0


def test_no_more_than_the_smallest_labelled_objects_are_left_out_for_a_gain():
    sizes = np.array([1.0, 30.0, 40.0, 50.0])
    hits = np.array([0.0, 0.2, 0.3, 0.8])
    _, _, limit = _best_size(sizes, hits, np.array([10.0, 12.0, 20.0, 50.0]))
    assert 1 < limit <= 12


def test_no_objects_at_all_are_survived():
    maps = np.zeros((3, 6, 8, 8), np.uint8)
    best = tuned(Tuner([TuningVolume(maps, np.zeros((6, 8, 8), int), SPACING)], "objects", FIRST)).best
    assert decode(maps, best.threshold, best.decoding, SPACING).max() == 0


def test_ignored_voxels_are_left_out():
    maps, labels = touching_balls(0, shape=(14, 40, 44), number=30)
    target = (labels > 0).astype(np.uint8)
    target[:, :, 22:] = IGNORE
    labels = np.where(target == IGNORE, 0, labels)
    marked = TuningVolume(maps, labels, SPACING, target == IGNORE)
    score = evaluate([marked], FIRST)[1]
    assert score > evaluate([TuningVolume(maps, labels, SPACING)], FIRST)[1] + 0.1


def test_large_volumes_are_cut_to_where_most_objects_are():
    maps, labels = touching_balls(0, shape=(20, 60, 64))
    labels[:, :, :40] = 0
    [block] = limited([TuningVolume(maps, labels, SPACING)], max_voxels=labels.size // 8)
    assert block.objects.size <= 1.2 * labels.size / 8
    assert block.maps.shape[1:] == block.objects.shape
    assert np.count_nonzero(block.objects) / block.objects.size > 2 * np.count_nonzero(labels) / labels.size


def test_of_many_volumes_some_are_taken_from_all_over(monkeypatch):
    monkeypatch.setattr("napari_celltrain.engine.validation.MIN_BLOCK", 500)
    volumes = [
        TuningVolume(np.full((1, 10, 10, 10), i, np.uint8), np.ones((10, 10, 10), int), SPACING) for i in range(9)
    ]
    taken = limited(volumes, max_voxels=3000)
    assert sum(volume.objects.size for volume in taken) <= 3600
    numbers = [int(volume.maps.max()) for volume in taken]
    assert (numbers[0], numbers[-1]) == (0, 8)
    assert limited(volumes, max_voxels=9000) == volumes
