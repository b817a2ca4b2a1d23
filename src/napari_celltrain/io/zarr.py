"""OME-Zarr images (NGFF 0.4 and 0.5), at full resolution, and bare Zarr arrays: what their metadata say.

To import this module is slow, as it is to import Zarr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from napari_celltrain.io.axes import micrometres_per, plan_layout, spacing_of, unreadable
from napari_celltrain.io.volume import Volume, gone, is_zarr, opening
from napari_celltrain.io.zarr_arrays import EXPORT, check_chunks, inside, open_array, read_metadata
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.outside import check_record, kind_of, shown

_MAX_LABELS = 1000
"""Of one image; who has more is asked for a choice anyway."""


class ZarrVolume(Volume):
    """The full-resolution array of one OME-Zarr image."""

    def __init__(
        self, path: Path, name: str, *, axes: str | None, channel: int | None, voxel_size: Spacing | None
    ) -> None:
        with opening(path, "an OME-Zarr image", EXPORT):
            self._folder, file_axes, own_size = _find_array(path)
            self._array = open_array(self._folder, path.name)
            shape = tuple(map(int, self._array.shape))
            layout = plan_layout(path.name, file_axes, shape, axes=axes, channel=channel)
            check_chunks(self._folder, path.name, self._array)
        super().__init__(name, layout, self._array.dtype, voxel_size or own_size, path)
        self.key = str(self._folder), layout

    def _part(self, key: Any) -> Any:
        part = self._array[key]
        # to Zarr, a chunk without a file is one of zeros
        if not is_zarr(self._folder):
            raise gone(self.where, self._folder)
        return part


# --- metadata


class _Axis(BaseModel):
    name: str = ""
    type: str | None = None
    unit: str | None = None


class _Transformation(BaseModel):
    type: str | None = None
    scale: list[float] = []


class _Scaled(BaseModel):
    steps: list[_Transformation] | None = Field(None, alias="coordinateTransformations")


class _Dataset(_Scaled):
    path: str


class _Image(_Scaled):
    axes: list[_Axis | str] | None = None
    datasets: Annotated[list[_Dataset], Field(min_length=1)]


class _Node(BaseModel):
    node_type: str = ""
    attributes: dict[str, Any] = {}


class _Group(BaseModel):
    multiscales: list[Any] = []
    labels: list[str] = []


def _attributes(path: Path) -> tuple[_Group, dict[str, Any], bool]:
    """What a Zarr folder says of its images and labels, the whole of it, and whether the folder is an array."""
    file = path / "zarr.json"
    content = read_metadata(file)
    node = check_record(file, _Node, {} if content is None else content)
    if content is None:
        file = path / ".zattrs"
        node = check_record(file, _Node, {"attributes": {} if (found := read_metadata(file)) is None else found})
    inner = node.attributes.get("ome", node.attributes)  # version 0.5
    group = check_record(file, _Group, inner)
    return group, inner, node.node_type == "array" or kind_of(path / ".zarray") == "file"


def _find_array(path: Path) -> tuple[Path, str, Spacing | None]:
    """The folder of the full-resolution array, its axes (empty: not given), and its voxel size."""
    if not is_zarr(path, by_name=False):
        message = "This is a folder without .zattrs or zarr.json, so it is no OME-Zarr."
        raise unreadable(path.name, message, EXPORT)
    group, attributes, is_array = _attributes(path)
    if group.multiscales:
        return _full_resolution(path, check_record(path, _Image, group.multiscales[0]))
    if is_array:
        return path.resolve(), "", None
    if "bioformats2raw.layout" in attributes and kind_of(path / "0") == "folder":
        if kind_of(path / "1") is not None:
            remedy = f"Choose one of its subfolders, such as {path / '0'}."
            raise unreadable(path.name, "The folder holds several images.", remedy)
        return _find_array(inside(path.resolve(), path / "0"))
    if "plate" in attributes:
        raise unreadable(path.name, "This is a plate of many images.", "Choose the folder of one field of view.")
    if held := labels_inside(path):
        message = f"This is a group of labels ({', '.join(shown(each.name) for each in held)})."
        raise unreadable(path.name, message, f"Choose one of them, such as {held[0]}.")
    raise unreadable(path.name, "The metadata name no image (there is no 'multiscales').", EXPORT)


def labels_inside(path: Path) -> list[Path]:
    """The labels that an OME-Zarr image holds, or that a group of labels holds; none for labels themselves."""
    with opening(path, "an OME-Zarr image", EXPORT):
        group, attributes, _ = _attributes(path)
        if "bioformats2raw.layout" in attributes and kind_of(path / "0") == "folder":
            path = path / "0"
            group, attributes, _ = _attributes(path)
        if "image-label" in attributes:
            return []
        if group.multiscales:
            inside(path.resolve(), path / "labels")
            path = path / "labels"
            if kind_of(path) != "folder":
                return []
            group, _, _ = _attributes(path)
        elif path.name != "labels" and not group.labels:
            return []
        names = list(dict.fromkeys(group.labels)) or sorted(entry.name for entry in path.iterdir() if is_zarr(entry))
        names = names[:_MAX_LABELS]
        for name in names:
            inside(path.resolve(), path / name)
        return [path / name for name in names]


def _full_resolution(group: Path, image: _Image) -> tuple[Path, str, Spacing | None]:
    dataset = image.datasets[0]
    folder = inside(group.resolve(), group / dataset.path)
    described = [axis if isinstance(axis, _Axis) else _Axis(name=axis) for axis in image.axes or []]
    names = [axis.name.upper() for axis in described]
    types = [{"channel": "C", "time": "T"}.get(axis.type or "", "Q") for axis in described]
    axes = "".join(name if name in tuple("ZYXCT") else kind for name, kind in zip(names, types, strict=True))
    return folder, axes, _voxel_size(described, axes, [*(dataset.steps or []), *(image.steps or [])])


def _voxel_size(described: list[_Axis], axes: str, steps: list[_Transformation]) -> Spacing | None:
    """The product of all scales, in micrometres.

    Many writers leave the unit out and mean micrometres; a scale of 1 without a unit means nothing, though.
    """
    if not {"Z", "Y", "X"} <= set(axes):
        return None
    scale = [1.0] * len(axes)
    for step in steps:
        if step.type == "scale":
            scale = [old * new for old, new in zip(scale, step.scale, strict=True)]
    units = [described[axes.index(letter)].unit for letter in "ZYX"]
    lengths = [scale[axes.index(letter)] for letter in "ZYX"]
    if not any(units) and lengths == [1.0, 1.0, 1.0]:
        return None
    return spacing_of(lengths, [micrometres_per(unit) if unit else 1.0 for unit in units])
