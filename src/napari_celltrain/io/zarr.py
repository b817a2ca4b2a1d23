"""OME-Zarr images (NGFF 0.4 and 0.5), at full resolution, and bare Zarr arrays.

The metadata are read as JSON by ourselves first, and only known codecs are let through: a Zarr array may name
codecs that run code when it is read (``pickle``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_celltrain.io.axes import micrometres_per, plan_layout, spacing_of, unreadable
from napari_celltrain.io.volume import Volume, gone, may_be_denied, opening, refuse_beyond_memory
from napari_celltrain.values.config import Spacing

if TYPE_CHECKING:
    import zarr

_MAX_METADATA_BYTES = 16 * 2**20
_METADATA_FILES = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_KNOWN_CODECS = frozenset(
    {"bytes", "endian", "transpose", "sharding_indexed"}
    | {"crc32c", "crc32", "adler32", "fletcher32"}
    | {"blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd"}
    | {"delta", "fixedscaleoffset", "quantize", "astype", "bitround", "packbits", "shuffle"}
)
_EXPORT = "Export it as OME-Zarr 0.4 or 0.5, or as TIFF."


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array itself, rather than a folder of files.

    Raises :class:`DataError` where that cannot be seen.
    """
    with may_be_denied(path):
        return path.is_dir() and (path.suffix.lower() == ".zarr" or any((path / n).is_file() for n in _METADATA_FILES))


class ZarrVolume(Volume):
    """The full-resolution array of one OME-Zarr image."""

    def __init__(
        self, path: Path, name: str, *, axes: str | None, channel: int | None, voxel_size: Spacing | None
    ) -> None:
        with opening(path, "an OME-Zarr image", _EXPORT):
            self._folder, file_axes, own_size = _find_array(path)
            self._array = _open_array(self._folder, path.name)
        layout = plan_layout(path.name, file_axes, tuple(map(int, self._array.shape)), axes=axes, channel=channel)
        super().__init__(name, layout, self._array.dtype, voxel_size or own_size, path)
        self.key = str(self._folder.resolve()), layout
        refuse_beyond_memory(path.name, math.prod(self._array.chunks) * self._array.dtype.itemsize)

    def _part(self, key: Any) -> Any:
        part = self._array[key]
        # to Zarr, a chunk without a file is one of zeros
        if not any((self._folder / name).exists() for name in ("zarr.json", ".zarray")):
            raise gone(self.where, self._folder)
        return part


def _find_array(path: Path) -> tuple[Path, str, Spacing | None]:
    """The folder of the full-resolution array, its axes (empty: not given), and its voxel size."""
    if not any((path / name).is_file() for name in _METADATA_FILES):
        message = "This is a folder without .zattrs or zarr.json, so it is no OME-Zarr."
        raise unreadable(path.name, message, _EXPORT)
    metadata = _read_json(path / "zarr.json")
    attributes = metadata.get("attributes", {}) if metadata else _read_json(path / ".zattrs")
    attributes = attributes.get("ome", attributes)  # version 0.5
    if "multiscales" in attributes:
        return _full_resolution(path, attributes["multiscales"])
    if (path / ".zarray").is_file() or metadata.get("node_type") == "array":
        return path, "", None
    if "bioformats2raw.layout" in attributes and (path / "0").is_dir():
        if (path / "1").is_dir():
            remedy = f"Choose one of its subfolders, such as {path / '0'}."
            raise unreadable(path.name, "The folder holds several images.", remedy)
        return _find_array(path / "0")
    if "plate" in attributes:
        raise unreadable(path.name, "This is a plate of many images.", "Choose the folder of one field of view.")
    raise unreadable(path.name, "The metadata name no image (there is no 'multiscales').", _EXPORT)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    if file.stat().st_size > _MAX_METADATA_BYTES:
        raise unreadable(str(file), "The file is too large to be the metadata of an image.")
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _full_resolution(group: Path, multiscales: Any) -> tuple[Path, str, Spacing | None]:
    image = multiscales[0]
    dataset = image["datasets"][0]
    folder = (group / str(dataset["path"])).resolve()
    if not folder.is_relative_to(group.resolve()):
        raise unreadable(group.name, f"The metadata lead out of the folder, to {dataset['path']!r}.", _EXPORT)
    described = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])]
    names = [str(axis.get("name", "")).upper() for axis in described]
    types = [{"channel": "C", "time": "T"}.get(str(axis.get("type")), "Q") for axis in described]
    axes = "".join(name if name in tuple("ZYXCT") else kind for name, kind in zip(names, types, strict=True))
    return folder, axes, _voxel_size(described, axes, [dataset, image])


def _voxel_size(described: list[dict[str, Any]], axes: str, places: list[dict[str, Any]]) -> Spacing | None:
    """The product of all scales, in micrometres.

    Many writers leave the unit out and mean micrometres; a scale of 1 without a unit means nothing, though.
    """
    if not {"Z", "Y", "X"} <= set(axes):
        return None
    scale = [1.0] * len(axes)
    for place in places:
        for step in place.get("coordinateTransformations", []):
            if step.get("type") == "scale":
                scale = [old * float(new) for old, new in zip(scale, step["scale"], strict=True)]
    units = [described[axes.index(letter)].get("unit") for letter in "ZYX"]
    lengths = [scale[axes.index(letter)] for letter in "ZYX"]
    if not any(units) and lengths == [1.0, 1.0, 1.0]:
        return None
    return spacing_of(lengths, [micrometres_per(str(unit)) if unit else 1.0 for unit in units])


def _open_array(folder: Path, where: str) -> zarr.Array[Any]:
    import zarr  # slow to import, and many never open one

    version: Literal[2, 3] = 3 if (folder / "zarr.json").is_file() else 2
    metadata = _read_json(folder / ("zarr.json" if version == 3 else ".zarray"))
    if not metadata:
        raise unreadable(where, f"The full-resolution array {folder.name!r} is missing.", "Copy or export it again.")
    for codec in _codecs(metadata):
        if codec.removeprefix("numcodecs.") not in _KNOWN_CODECS:
            raise unreadable(where, f"The image is encoded by {codec!r}, which is not a codec for images.", _EXPORT)
    return zarr.open_array(str(folder), mode="r", zarr_format=version)


def _codecs(metadata: dict[str, Any]) -> Iterator[str]:
    """The names of all codecs of an array, those inside shards included."""
    listed = [*(metadata.get("codecs") or []), *(metadata.get("filters") or []), metadata.get("compressor")]
    for codec in listed:
        if codec is None:
            continue
        configuration = codec.get("configuration") or {}
        yield str(codec.get("name", codec.get("id")))
        yield from _codecs({"codecs": configuration.get("codecs"), "filters": configuration.get("index_codecs")})
