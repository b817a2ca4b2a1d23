"""What the metadata of a TIFF say of its planes and voxels: ImageJ's, OME's, Micro-Manager's and tifffile's own.

OME-XML and Micro-Manager describe a set of files; the facts are those of the planes that a file holds itself.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from napari_celltrain.io.axes import Plane, micrometres_per, spacing_of, unreadable
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import CellTrainError, Problem
from napari_celltrain.values.outside import kind_of, read_json, read_text
from napari_celltrain.values.text import sizes

SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
"""Endings of TIFF files; the last three are those of BigTIFF."""
_MAX_METADATA_BYTES = 1 << 24

_reading: list[None] = []
"""One entry for each read that is going on, in whichever thread: appending and popping need no lock."""
# Our own errors say what is wrong, so tifffile's lines are dropped, those of the threads that it decodes in as well.
logging.getLogger("tifffile").addFilter(lambda _: not _reading)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Neither tifffile's log lines nor NumPy's warnings of what a damaged header made it compute."""
    _reading.append(None)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _reading.pop()


@dataclass(frozen=True, slots=True)
class TiffFacts:
    """What the metadata of a file say, of it or of a set of files that it is one of."""

    voxel_size: Spacing | None = None
    """(z, y, x) in micrometres, where the metadata say all three."""
    announced: int = 0
    """How many voxels they promise; 0 where they do not say it apart from the planes themselves."""
    planes: tuple[Plane, ...] = ()
    """The file's own, in order, where it is one of a set."""
    slices: int = 0
    channels: int = 0
    """Of each volume of the set, where they are known."""
    sidecar: str = ""
    """The file that gives the voxel size without a unit."""
    missing: str = ""
    """The file in which the metadata are, where it cannot be read."""


def remarks_on(facts: TiffFacts, where: str, needs_size: bool, as_plane: bool) -> tuple[Problem, ...]:
    found: list[tuple[str, str, str, tuple[str, ...]]] = []
    if facts.missing and needs_size:
        message = f"Its voxel size is in {facts.missing}, which cannot be read."
        remedy = "Copy that file into the same folder, or give the voxel size."
        found.append(("no-companion", message, remedy, ("data.voxel_size",)))
    if facts.sidecar and needs_size:
        size = f"{sizes(facts.voxel_size or ())} µm (z, y, x)"
        message = f"Its voxel size is taken from {facts.sidecar}, as {size}, although that file gives no unit."
        found.append(("assumed-unit", message, "If it is in another unit, give the voxel size.", ("data.voxel_size",)))
    held = len({plane[2] for plane in facts.planes})
    if 0 < held < facts.channels and not as_plane:
        message = f"The file holds {held} of the {facts.channels} channels of an image, and is taken as it is."
        remedy = "Leave out the files of other channels where they are not wanted."
        found.append(("part-of-channels", message, remedy, ()))
    return tuple(Problem(code, where, text, remedy, "warning", settings) for code, text, remedy, settings in found)


def facts_in(tif: tifffile.TiffFile, path: Path) -> TiffFacts:
    """What ``tif``, opened without following its set, the files that it names and nnU-Net's JSON beside it say."""
    return _with_sidecar(_facts_in(tif, path), path)


def _facts_in(tif: tifffile.TiffFile, path: Path) -> TiffFacts:
    if tif.is_micromanager and (facts := _micromanager_facts(tif, path)):
        return facts
    if tif.is_ome:
        return _ome_facts(tif, path)
    announced = max((int(math.prod(entry["shape"])) for entry in tif.shaped_metadata or ()), default=0)
    if tif.is_imagej:
        announced = int((tif.imagej_metadata or {}).get("images", 1)) * int(tif.pages.first.size)
    size = _own_voxel_size(tif)
    return TiffFacts(size, announced) if size else replace(_ome_facts(tif, path), announced=announced)


def _with_sidecar(facts: TiffFacts, path: Path) -> TiffFacts:
    """With the voxel size of the JSON file that nnU-Net keeps beside a TIFF, where that has none."""
    stem = path.name.partition(".")[0]
    for name in dict.fromkeys((stem, stem[:-5] if re.search(r"_\d{4}\Z", stem) else stem)):
        file = path.with_name(f"{name}.json")
        if facts.voxel_size is None and kind_of(file) == "file":
            with contextlib.suppress(CellTrainError):
                content = read_json(file)
                spacing = content.get("spacing") if isinstance(content, dict) else None
                if isinstance(spacing, list) and len(spacing) == 3 and (size := _spacing(spacing)):
                    return replace(facts, voxel_size=size, sidecar=file.name)
    return facts


def _own_voxel_size(tif: tifffile.TiffFile) -> Spacing | None:
    """As ImageJ and tifffile write it. A plain TIFF has tags for x and y only, which mostly hold dots per inch."""
    if not (tif.is_imagej or tif.shaped_metadata):
        return None
    metadata = dict(tif.imagej_metadata or {}) if tif.is_imagej else dict(*(tif.shaped_metadata or ())[:1])
    # ImageJ leaves out a spacing of exactly 1; other writers that claim to be ImageJ leave out what they
    # do not know. tifffile signs as 1.11a.
    if tif.is_imagej and str(metadata.get("ImageJ", "")) != "1.11a":
        metadata.setdefault("spacing", 1.0)
    factors = [micrometres_per(str(metadata.get(key, metadata.get("unit")))) for key in ("zunit", "yunit", "unit")]
    spacing = metadata.get("spacing", math.nan)
    lengths = [abs(spacing) if isinstance(spacing, float | int) else spacing]
    for tag in ("YResolution", "XResolution"):
        numerator, denominator = tif.pages.first.tags[tag].value if tag in tif.pages.first.tags else (0, 0)
        lengths.append(denominator / numerator if numerator else math.nan)
    return _spacing(lengths, factors)


def _spacing(lengths: Sequence[Any], factors: Sequence[float | None] = (1.0, 1.0, 1.0)) -> Spacing | None:
    try:
        return spacing_of(lengths, factors)
    except (TypeError, ValueError):  # not numbers
        return None


# --- Micro-Manager


def _micromanager_facts(tif: tifffile.TiffFile, path: Path) -> TiffFacts | None:
    """None where all is in the file and OME says it as well."""
    metadata = tif.micromanager_metadata or {}
    summary, index = metadata.get("Summary") or {}, metadata.get("IndexMap")
    tag = tif.pages.first.tags[51123].value
    tag = tag if isinstance(tag, dict) else {}
    pixel = tag.get("PixelSizeUm", summary.get("PixelSize_um", math.nan))
    size = _spacing([abs(float(summary.get("z-step_um") or math.nan)), pixel, pixel])
    if index is None or "Frames" not in summary:
        if len(tif.pages) > 1 or tif.is_ome or "SliceIndex" not in tag:
            return None
        plane = [int(tag.get(f"{key}Index") or 0) for key in ("Position", "Frame", "Channel", "Slice")]
        return TiffFacts(size, planes=((plane[0], plane[1], plane[2], plane[3]),), slices=0)
    ordered = index[index[:, 4].argsort()][:, (3, 2, 0, 1)].tolist()
    lengths = [int(summary.get(key) or 1) for key in ("Positions", "Frames", "Channels", "Slices")]
    ome = _ome_facts(tif, path) if tif.is_ome else TiffFacts()
    size = ome.voxel_size or size
    if len(ordered) >= math.prod(lengths):
        return TiffFacts(size, ome.announced)
    # an acquisition that was ended early has fewer slices than were planned, and no further file
    prefix = path.name.partition("_MMStack")[0]
    is_alone = len(list(itertools.islice(path.parent.glob(f"{prefix}_MMStack*"), 2))) < 2
    slices = max(plane[3] for plane in ordered) + 1 if is_alone else lengths[3]
    return TiffFacts(size, planes=tuple(map(tuple, ordered)), slices=slices, channels=lengths[2])


# --- OME


def _ome_facts(tif: tifffile.TiffFile, path: Path) -> TiffFacts:
    """As the XML in the file says, or that in the file which it names, or in a companion file which names it."""
    own = _parse(tif.ome_metadata or "")
    link = None if own is None else own.find("{*}BinaryOnly")
    if own is not None and link is None:
        return _facts_of(own, own.get("UUID"), tif, path)
    if link is not None:
        files = [path.parent / Path(link.get("MetadataFile", "")).name]
    else:  # a file without any metadata
        files = sorted(path.parent.glob("*.companion.ome"))
    for file in files:
        root = None
        with contextlib.suppress(CellTrainError, OSError):
            root = _companion(file, file.stat().st_mtime_ns)
        if root is not None and (link is not None or _is_named(root, path.name)):
            return _facts_of(root, None if own is None else own.get("UUID"), tif, path)
    return TiffFacts() if link is None else TiffFacts(missing=files[0].name)


def _parse(text: str) -> ET.Element | None:
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError):
        return None


@lru_cache(maxsize=2)  # each file of a set asks for the same one
def _companion(file: Path, _changed: int) -> ET.Element | None:
    """The OME-XML of a companion file, or of an OME-TIFF that holds the metadata of others."""
    if file.suffix.lower() not in SUFFIXES:
        return _parse(read_text(file, limit=_MAX_METADATA_BYTES))
    if kind_of(file) != "file":
        return None
    with contextlib.suppress(Exception), quietly(), tifffile.TiffFile(file, _multifile=False) as tif:
        return _parse(tif.ome_metadata or "")
    return None


def _is_named(root: ET.Element, name: str) -> bool:
    return any(uuid.get("FileName", "").casefold() == name.casefold() for uuid in root.iterfind(".//{*}UUID"))


def _facts_of(root: ET.Element, uuid: str | None, tif: tifffile.TiffFile, path: Path) -> TiffFacts:
    """Of the image that the file's own planes are of, or the first one."""
    one_file = len({found.text for found in root.iterfind(".//{*}UUID")}) < 2
    by_name = _is_named(root, path.name)
    planes: dict[int, Plane] = {}
    is_set, chosen, num_pages = False, None, len(tif.pages)
    for image, pixels in enumerate(root.iterfind(".//{*}Pixels")):
        for data in pixels.iterfind(".//{*}TiffData"):
            link = data.find("{*}UUID")
            name = "" if link is None else link.get("FileName", "").casefold()
            same_name, same_uuid = name == path.name.casefold(), link is not None and link.text == uuid
            # tifffile follows whatever has another identifier
            is_set |= link is not None and not same_uuid and not (uuid is None and same_name)
            if link is None or one_file or (same_name if by_name else same_uuid):
                chosen = pixels if chosen is None else chosen
                planes |= _planes_of(data, pixels, image, num_pages)
    chosen = root.find(".//{*}Pixels") if chosen is None else chosen
    if chosen is None:
        return TiffFacts()
    factors = [micrometres_per(chosen.get(f"PhysicalSize{letter}Unit", "µm")) for letter in "ZYX"]
    size = _spacing([chosen.get(f"PhysicalSize{letter}", math.nan) for letter in "ZYX"], factors)
    if not is_set:
        return TiffFacts(size, math.prod(int(chosen.get(f"Size{letter}", "1")) for letter in "TCZYX"))
    slices, channels = int(chosen.get("SizeZ", "1")), _num_channels(chosen)
    if not planes:  # its name and its identifier are other ones
        message = "The file is one of a set, whose metadata do not say which of the planes it holds."
        raise unreadable(path.name, message, "Give it its first name again, or save the volume in one file.")
    return TiffFacts(size, 0, tuple(planes[page] for page in sorted(planes)), slices, channels)


def _num_channels(pixels: ET.Element) -> int:
    """Channels that have planes of their own, unlike the colours of one plane."""
    first = pixels.find("{*}Channel")
    samples = 1 if first is None else int(first.get("SamplesPerPixel", "1"))
    return max(1, int(pixels.get("SizeC", "1")) // max(1, samples))


def _planes_of(data: ET.Element, pixels: ET.Element, image: int, num_pages: int) -> dict[int, Plane]:
    """The pages that a ``TiffData`` element describes, and which planes they are."""
    order = pixels.get("DimensionOrder", "XYZCT")[2:]
    length = {"Z": int(pixels.get("SizeZ", "1")), "C": _num_channels(pixels), "T": int(pixels.get("SizeT", "1"))}
    page = int(data.get("IFD", "0"))
    count = int(data.get("PlaneCount", data.get("NumPlanes", "1" if "IFD" in data.attrib else "0"))) or num_pages
    index, step = 0, 1
    for letter in order:
        index += step * int(data.get(f"First{letter}", "0"))
        step *= max(1, length[letter])
    planes: dict[int, Plane] = {}
    for offset in range(min(count, num_pages - page)):
        rest, at = index + offset, {}
        for letter in order:
            rest, at[letter] = divmod(rest, max(1, length[letter]))
        planes[page + offset] = (image, at["T"], at["C"], at["Z"])
    return planes
