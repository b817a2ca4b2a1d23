"""Which labels belong to which image: by their names, never by their place in a sorted list.

Two names match by the first of these rules that fits, each asked of all files before the next one:

1. the same name in the same subfolder (``a.tif`` and ``a.tif``; ``a.ome.zarr`` counts as ``a``);
2. the same name in any subfolder;
3. the same name once words such as ``_mask``, ``label-`` or ``_img`` are taken off;
4. the same name once the number of a channel is taken off that of the image (``C1-a``, ``a_ch00``, ``a_0000``);
5. where no names match at all: the same numbers (``img_007`` and ``gt_007``).

Labels inside an OME-Zarr image (``a.zarr/labels/cells``) belong to that image, before all these rules; elsewhere they
count under its name. They are used where the image is given as labels, or the folder that it is in.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Literal

from napari_celltrain.io.volume import Volume, called, is_zarr
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume, stem_of
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError, Problem, Severity
from napari_celltrain.values.outside import kind_of, shown

# Words that people and programs add to the names of their files; a space stands for any separator, or none.
_LABEL_WORDS = (
    ("people", "annotations, annotation, annotated, annot, ground truth, gt, instances, instance, objects"),
    ("people", "segmentations, segmentation, segmented, seg, masks, mask, labels, label, labelled, lbl, manual"),
    ("cellpose", "cp masks, masks cp"),
    ("ilastik", "simple segmentation, object identities, object predictions, multicut segmentation"),
    ("StarDist, QuPath, Amira", "label image, labelimage, label mask"),
    ("MorphoLibJ, PlantSeg", "watershed, catchment basins, multicut, gasp, mutexws"),
    ("Cell Tracking Challenge, TrackMate", "man seg, man track, lblimg"),
)
_IMAGE_WORDS = (("people", "images, image, img, raw data, raw, intensity, volume, vol, im"),)
_OTHER_WORDS = (
    ("ilastik, Weka", "probabilities, probability maps, probability, probs, uncertainty, features"),
    ("cellpose", "flows, cp flows, outlines, cp outlines, cellprob"),
)
"""Of results that are no labels."""


def _affix(table: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """One of the words at the end or the beginning of a name, set off by a separator."""
    words = sorted(", ".join(words for _, words in table).split(", "), key=len, reverse=True)
    choice = "|".join(word.replace(" ", r"[_\-. ]*") for word in words)
    return re.compile(rf"([_\-. ]+({choice}))+$|^(({choice})[_\-. ]+)+", re.IGNORECASE)


_LABEL_AFFIX, _IMAGE_AFFIX, _OTHER_AFFIX = map(_affix, (_LABEL_WORDS, _IMAGE_WORDS, _OTHER_WORDS))
_FIJI_CHANNEL = re.compile(r"^C\d{1,2}-", re.IGNORECASE)
_CHANNEL = re.compile(r"^C\d{1,2}-|[_\-. ](c|ch|channel)\d{1,2}$|_00\d\d$", re.IGNORECASE)
"""Of Fiji, of microscopes and of nnU-Net."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its labels. ``name`` is unique among the pairs and can name a file; ``rule`` says why they
    belong together, for people."""

    name: str
    image: Path
    labels: Path
    rule: str


@dataclass(frozen=True, slots=True)
class Pairing:
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    folder: PurePosixPath
    """Below the chosen one."""
    stem: str
    image: Path | None = None
    """Of labels inside an image: that image."""


def pair_files(images: Path, labels: Path, *, only_labels: bool = False) -> Pairing:
    """Pair the volumes of two folders (which may be one and the same), or two files chosen by hand.

    With a folder of images, labels inside one of them stand for those of the same name in all of them. With
    ``only_labels``, the images are labels as well, such as predictions.
    Raises :class:`DataError` where a folder is missing or holds no volumes; files that do not pair up are among the
    problems.
    """
    images, labels = Path(images), Path(labels)
    image_files = [each for file in _list(images) for each in (_labels_of(file) if only_labels else [file])]
    image_files, label_files = _tell_apart(images, labels, image_files, _list_labels(labels, images, image_files))
    stems = {file.stem.casefold() for file in image_files}
    odd = [file for file in label_files if _OTHER_AFFIX.search(file.stem) and file.stem.casefold() not in stems]
    if images != labels and not (len(label_files) == 1 and label_files[0].path == labels):
        label_files = [file for file in label_files if file not in odd]
    else:
        odd = []
    # whether the user chose a single file, not a folder that happens to hold one
    one_image = [file.path for file in image_files] == [images]
    one_labels = len(label_files) == 1 and labels in (label_files[0].path, label_files[0].image)
    if not label_files and odd:
        return Pairing((), tuple(_no_labels(odd, "error")))
    if not label_files and one_image:
        return Pairing((), (_same_file(image_files[0]),))
    if not label_files:
        message = "Images and labels are in one folder, and no name shows which files are labels."
        remedy = (
            "Add _mask or _label to the names of the labels (a.tif and a_mask.tif), or put them in a folder of their"
        )
        return Pairing((), (Problem("ambiguous-pair", images.name, message, f"{remedy} own."),))
    if one_image and one_labels:
        groups: _Groups = [("chosen by hand", image_files, label_files)]
    else:
        groups = _match(image_files, label_files)
    partners: dict[_File, tuple[_File, str]] = {}
    problems = []
    for rule, these, those in groups:
        if len(these) > 1 or len(those) > 1:
            problems.append(_ambiguous(these, those))
        elif _is_same(these[0].path, those[0].path):
            problems.append(_same_file(these[0]))
        else:
            partners[these[0]] = those[0], rule
    severity: Severity = "warning" if partners else "error"
    problems += _no_labels(odd, severity)
    lone_images, lone_labels = _without(image_files, groups, 1), _without(label_files, groups, 2)
    # Where one file of many was picked, the others are of no interest.
    if not one_labels:
        problems += _unmatched("image", lone_images, severity)
    if not one_image:
        problems += _unmatched("labels", lone_labels, severity)
    if not partners and not problems:
        problems = _unmatched("image", lone_images, severity)
    matched = [(image, *partners[image]) for image in image_files if image in partners]
    return Pairing(tuple(_name_pairs(matched)), tuple(problems))


def open_pair(pair: Pair, config: DataConfig) -> tuple[Volume, Volume]:
    """The headers of both files of a pair, opened as ``config`` says. Raises :class:`DataError`."""
    return open_pair_image(pair, config), open_pair_labels(pair, config)


def open_pair_image(pair: Pair, config: DataConfig) -> Volume:
    return open_volume(pair.image, axes=config.axes, channel=config.channel, voxel_size=config.voxel_size)


def open_pair_labels(pair: Pair, config: DataConfig) -> Volume:
    return open_labels(pair.labels, axes=config.axes, voxel_size=config.voxel_size)


def _list(root: Path) -> list[_File]:
    folders = ((path, path.relative_to(root).parent.as_posix()) for path in find_volumes(root))
    return [_File(path, PurePosixPath(folder), stem_of(path)) for path, folder in folders]


def _list_labels(labels: Path, images: Path, image_files: list[_File]) -> list[_File]:
    """As :func:`_list`, with the labels inside images in the place of these images."""
    files, name = _list(labels), None
    if labels.parent.name == "labels" and not is_zarr(images):
        around = Path(os.path.realpath(labels.parents[1]))
        zarrs = [file for file in image_files if is_zarr(file.path)]
        if any(around.is_relative_to(os.path.realpath(file.path)) for file in zarrs):
            files, name = zarrs, labels.name
    found = [each for file in files for each in _labels_of(file)]
    return [file for file in found if name is None or (file.image and file.path.name == name)]


def _labels_of(file: _File) -> list[_File]:
    """The labels inside an OME-Zarr image or group of labels; anything else itself."""
    if not is_zarr(file.path):
        return [file]
    from napari_celltrain.io.zarr import labels_inside  # slow to import, and many never open one

    try:
        inside = labels_inside(file.path)
    except DataError:  # said again by those who open it
        inside = [file.path / "labels"] if kind_of(file.path / "labels") == "folder" else []
    image = file.path.parent if file.path.name == "labels" else file.path
    return [_File(path, file.folder, stem_of(image), image) for path in inside] or [file]


def _tell_apart(
    images: Path, labels: Path, image_files: list[_File], label_files: list[_File]
) -> tuple[list[_File], list[_File]]:
    """Where one folder lies in the other, or both are one: no file is image and labels at once."""
    inside = [file for file in label_files if file.image is not None]
    label_files = [file for file in label_files if file.image is None]
    # Folders and files may be given by two spellings or over a link.
    real = {file: os.path.realpath(file.path) for file in (*image_files, *label_files)}
    in_images, in_labels = ({real[file] for file in files} for files in (image_files, label_files))
    in_images -= {os.path.realpath(file.image) for file in inside if file.image}
    if _is_same(images, labels) or in_images == in_labels:
        label_files = [file for file in label_files if _LABEL_AFFIX.search(file.stem)]
        in_labels = {real[file] for file in label_files}
    if in_labels <= in_images:
        image_files = [file for file in image_files if real[file] not in in_labels]
    elif in_images < in_labels:
        label_files = [file for file in label_files if real[file] not in in_images]
    return image_files, inside + label_files


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, whatever they are called."""
    with suppress(OSError):
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


_Key = Callable[[_File], Hashable | None]
_Groups = list[tuple[str, list[_File], list[_File]]]
"""A rule, with images and labels files that are alike by it: each a pair, unless there are several of one side."""


def _bare(*affixes: re.Pattern[str], in_folder: bool = False) -> _Key:
    """The name without words of these kinds; a name that is nothing but such a word stays."""

    def key(file: _File) -> Hashable:
        stem = file.stem
        for affix in affixes:
            stem = affix.sub("", stem) or stem
        return (file.folder if in_folder else None, stem.casefold())

    return key


_WORDS_RULE = "the same name but for words such as mask or image"
_CHANNEL_RULE = "the same name but for the number of the channel"
_NAME_RULES: tuple[tuple[str, _Key, _Key], ...] = (
    ("the labels inside the image", attrgetter("path"), attrgetter("image")),
    ("the same name", attrgetter("folder", "stem"), attrgetter("folder", "stem")),
    ("the same name", _bare(), _bare()),
    (_WORDS_RULE, _bare(in_folder=True), _bare(_LABEL_AFFIX, in_folder=True)),
    (_WORDS_RULE, _bare(), _bare(_LABEL_AFFIX)),
    (_WORDS_RULE, _bare(_IMAGE_AFFIX, in_folder=True), _bare(_LABEL_AFFIX, _IMAGE_AFFIX, in_folder=True)),
    (_WORDS_RULE, _bare(_IMAGE_AFFIX), _bare(_LABEL_AFFIX, _IMAGE_AFFIX)),
    (_CHANNEL_RULE, _bare(_CHANNEL, in_folder=True), _bare(_LABEL_AFFIX, in_folder=True)),
    (_CHANNEL_RULE, _bare(_CHANNEL), _bare(_LABEL_AFFIX)),
    (_CHANNEL_RULE, _bare(_FIJI_CHANNEL), _bare(_LABEL_AFFIX, _FIJI_CHANNEL)),
)


def _match(images: list[_File], labels: list[_File]) -> _Groups:
    """Apply the rules in turn, each to what is left by those before it."""
    groups: _Groups = []
    for rule, of_image, of_labels in _NAME_RULES:
        groups += _alike(rule, _without(images, groups, 1), _without(labels, groups, 2), of_image, of_labels)
    if groups:
        return groups
    numbers = {file: own for file in (*images, *labels) if (own := _numbers(file))}
    for keys in (numbers, _varying_numbers(images, labels)):
        found = _alike("the same number", images, labels, keys.get, keys.get)
        if any(len(these) == len(those) == 1 for _, these, those in found):
            return found
    return []


def _alike(rule: str, images: list[_File], labels: list[_File], of_image: _Key, of_labels: _Key) -> _Groups:
    groups: defaultdict[Hashable, tuple[list[_File], list[_File]]] = defaultdict(lambda: ([], []))
    for side, (files, key_of) in enumerate(((images, of_image), (labels, of_labels))):
        for file in files:
            if (key := key_of(file)) is not None:
                groups[key][side].append(file)
    return [(rule, these, those) for these, those in groups.values() if these and those]


def _without(files: list[_File], groups: _Groups, side: Literal[1, 2]) -> list[_File]:
    used = {file for group in groups for file in group[side]}
    return [file for file in files if file not in used]


def _numbers(file: _File) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _varying_numbers(images: list[_File], labels: list[_File]) -> dict[_File, tuple[int, ...]]:
    """The numbers that differ from file to file, such as the 7 of ``exp2023_007``.

    Numbers that all files of a side share may be left out on one side only: if both sides have their own, they
    may well name two experiments.
    """
    keys: dict[_File, tuple[int, ...]] = {}
    dropped = 0
    for files in (images, labels):
        rows = [_numbers(file) for file in files]
        if len(rows) < 2 or len({len(row) for row in rows}) != 1:
            return {}
        varying = [index for index, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]
        dropped += len(varying) < len(rows[0])
        keys |= {file: tuple(row[i] for i in varying) for file, row in zip(files, rows, strict=True) if varying}
    return keys if dropped < 2 else {}


def _name_pairs(matched: list[tuple[_File, _File, str]]) -> Iterator[Pair]:
    """Name each pair by its image: by the stem where that is unique, else with its subfolders."""
    stems = Counter(image.stem.casefold() for image, _, _ in matched)
    taken: set[str] = set()
    for image, labels, rule in matched:
        base = image.stem if stems[image.stem.casefold()] == 1 else "_".join((*image.folder.parts, image.stem))
        names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        yield Pair(name, image.path, labels.path, rule)


def _ambiguous(images: list[_File], labels: list[_File]) -> Problem:
    if len(labels) > 1 and labels[0].image and len({file.image for file in labels}) == 1:
        names = ", ".join(shown(file.path.name) for file in labels[:8])
        message = f"The image holds several labels: {names}{', …' if len(labels) > 8 else ''}."
        remedy = f"Give the folder of those to use as labels, such as {shown(labels[0].path)}"
        remedy += " (with a folder of images, this name is used in all of them)."
        return Problem("ambiguous-pair", images[0].path.name, message, remedy)
    if len(labels) > 1:
        where, many, message = images[0], labels, "Several files could be its labels: "
    else:
        where, many, message = labels[0], images, "These labels could belong to several images: "
    message += ", ".join(str(file.folder / file.path.name) for file in many[:4]) + "."
    remedy = "Rename or move files so that each image and its labels have the same name."
    if len(labels) == 1 and len({_bare(_CHANNEL)(file) for file in images}) == 1:
        message = message.replace("several images", "several channels of an image")
        remedy = "Put the files of the channel to use into a folder of their own, and choose that."
    return Problem("ambiguous-pair", where.path.name, message, remedy)


def _same_file(file: _File) -> Problem:
    message = "The same file is given as image and as labels" + (", and holds none." if is_zarr(file.path) else ".")
    remedy = "Choose the file of the labels, or the folder that they are in."
    return Problem("ambiguous-pair", file.path.name, message, remedy)


def _no_labels(files: list[_File], severity: Severity) -> list[Problem]:
    message = "By its name, this file holds probabilities or the like, and no labels."
    remedy = "Export the segmentation itself (in ilastik: Simple Segmentation or Object Identities)."
    return [Problem("no-labels", file.path.name, message, remedy, severity) for file in files]


def _unmatched(kind: Literal["image", "labels"], files: list[_File], severity: Severity) -> list[Problem]:
    message = "There are no labels whose name fits this image."
    remedy = "Name its labels {0}.tif or {0}_mask.tif; until then the image is left out."
    if kind == "labels":
        message = "There is no image whose name fits these labels."
        remedy = "Give image and labels the same name; until then the labels are left out."
    code = f"unmatched-{kind}"
    return [Problem(code, called(file.path), message, remedy.format(file.stem), severity) for file in files]
