import threading
import time

import numpy as np
import pytest
import tifffile

from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.io.volumes import VolumeCache, open_volume
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError

SIZE = 10 * 20 * 30


@pytest.fixture
def volumes(tmp_path):
    made = []
    for index, compression in enumerate([None, "zlib", None]):
        path = tmp_path / f"{index}.tif"
        tifffile.imwrite(path, np.full((10, 20, 30), index, np.uint8), compression=compression)
        made.append(open_volume(path))
    return made


def test_what_fits_is_decoded_once(volumes):
    cache = VolumeCache(3 * SIZE)
    first = cache.get(volumes[0])
    assert isinstance(first, np.ndarray)
    assert cache.get(open_volume(volumes[0].path)) is first
    assert cache.used_bytes == SIZE
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1


def test_what_does_not_fit_is_read_piece_by_piece(volumes):
    cache = VolumeCache(SIZE)
    cache.get(volumes[0])
    lazy = cache.get(volumes[2])
    assert not isinstance(lazy, np.ndarray)
    assert lazy[1:2, :, :].max() == 2
    with pytest.raises(DataError, match=r"1\.tif: .*allow more memory") as caught:
        cache.get(volumes[1])
    assert caught.value.problems[0].settings == ("data.memory_budget_gb",)


def test_release_makes_room(volumes):
    cache = VolumeCache(SIZE)
    cache.get(volumes[0])
    cache.release(volumes[0])
    assert isinstance(cache.get(volumes[1]), np.ndarray)
    cache.release(volumes[1])
    assert cache.used_bytes == 0


def test_threads_share_one_decoding(volumes, monkeypatch):
    calls = []
    read = type(volumes[0]).read

    def slow_read(volume):
        calls.append(volume.where)
        time.sleep(0.02)
        return read(volume)

    monkeypatch.setattr(type(volumes[0]), "read", slow_read)
    cache = VolumeCache(3 * SIZE)
    threads = [threading.Thread(target=cache.get, args=(volumes[i % 3],)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == ["0.tif", "1.tif", "2.tif"]


def test_a_failed_decoding_takes_no_room(volumes):
    volumes[1].path.write_bytes(b"II*\0")
    cache = VolumeCache(3 * SIZE)
    with pytest.raises(DataError, match=r"1\.tif"):
        cache.get(volumes[1])
    assert cache.used_bytes == 0


def test_arrays_of_the_caller_stay_writable():
    array = np.zeros((4, 5, 6))
    VolumeCache(10**6).get(ArrayVolume("a", array))
    array[0] = 1


def test_default_budget():
    assert VolumeCache.default_budget(DataConfig(memory_budget_gb=2)) == 2_000_000_000
    assert VolumeCache.default_budget(DataConfig()) > 0
