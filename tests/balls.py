"""Small volumes that a network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from napari_celltrain.io.writer import write_volume

VOXEL_SIZE = (1.0, 0.5, 0.5)


def make_pair(
    seed: int, shape: tuple[int, int, int] = (16, 32, 32), num_objects: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Bright balls on a dark, noisy ground: image uint16 and labels uint16 (Z, Y, X)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    grid = np.indices(shape)
    for number in range(1, num_objects + 1):
        centre = [rng.integers(3, size - 3) for size in shape]
        distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, VOXEL_SIZE, strict=True))
        labels[(distance < 6) & (labels == 0)] = number
    blurred = ndimage.gaussian_filter((labels > 0).astype(float), 0.7)
    return (blurred * 1000 + rng.normal(200, 20, shape)).clip(0).astype(np.uint16), labels


def write_pairs(folder: Path, names: list[str], **options: object) -> tuple[Path, Path]:
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for seed, name in enumerate(names):
        image, label = make_pair(seed, **options)  # type: ignore[arg-type]
        write_volume(images / f"{name}.tif", image, VOXEL_SIZE)
        write_volume(labels / f"{name}.tif", label, VOXEL_SIZE)
    return images, labels


def write_ngff(path: Path, image: np.ndarray, labels: dict[str, np.ndarray], version: int = 2) -> Path:
    """An OME-Zarr image (NGFF 0.4 for version 2 of Zarr, 0.5 for 3) with labels inside, as other programs write it."""
    import zarr

    def write(group: zarr.Group, array: np.ndarray, **more: object) -> None:
        group.create_array("0", data=array, chunks=(8, 16, 16))
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        steps = [{"type": "scale", "scale": list(VOXEL_SIZE)}]
        note(
            group, multiscales=[{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}], **more
        )

    def note(group: zarr.Group, **attributes: object) -> None:
        group.attrs.update({"ome": {"version": "0.5", **attributes}} if version == 3 else attributes)

    root = zarr.create_group(path, zarr_format=version)  # type: ignore[arg-type]
    write(root, image)
    if labels:
        inside = root.create_group("labels")
        note(inside, labels=list(labels))
        for name, array in labels.items():
            write(inside.create_group(name), array, **{"image-label": {}})
    return path
