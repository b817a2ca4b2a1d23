"""Which labels belong to which image: by their names, never by their place in a sorted list.

Two names match by the first of these rules that fits, each asked of all files before the next one:

1. the same name in the same subfolder (``a.tif`` and ``a.tif``; ``a.ome.zarr`` counts as ``a``);
2. the same name in any subfolder;
3. the same name once words such as ``_mask``, ``label-`` or ``_img`` are taken off;
4. where no names match at all: the same numbers (``img_007`` and ``gt_007``).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from napari_celltrain.io.volume import Volume
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume, stem_of
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import Problem, Severity

_LABEL_WORDS = (
    "groundtruth ground_truth annotations annotation annotated annot instances instance segmentations segmentation "
    "segmented masks mask labels label lbl seg gt"
)
_IMAGE_WORDS = "images image img raw intensity volume vol im"
_SEPARATOR = r"[_\-. ]+"


def _affix(words: str) -> re.Pattern[str]:
    """One of the words at the end or the beginning of a name, set off by a separator."""
    choice = "|".join(re.escape(word) for word in words.split())
    return re.compile(rf"({_SEPARATOR}(cp_)?({choice}))+$|^(({choice}){_SEPARATOR})+", re.IGNORECASE)


_LABEL_AFFIX = _affix(_LABEL_WORDS)
_IMAGE_AFFIX = _affix(_IMAGE_WORDS)


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
    relative: PurePosixPath
    """Subfolder and stem below the chosen folder."""

    @property
    def stem(self) -> str:
        return self.relative.name


def pair_files(images: Path, labels: Path) -> Pairing:
    """Pair the volumes of two folders (which may be one and the same), or two files chosen by hand.

    Raises :class:`DataError` where a folder is missing or holds no volumes; files that do not pair up are among the
    problems.
    """
    image_files, label_files = _list(images), _list(labels)
    image_files, label_files = _tell_apart(Path(images), Path(labels), image_files, label_files)
    if _is_one(images, image_files) and _is_one(labels, label_files):
        return _pair_by_hand(image_files[0], label_files[0])
    if not label_files:
        return Pairing((), (_same_folder(images),))
    matched, ambiguous, lone_images, lone_labels = _match(image_files, label_files)
    problems = [_ambiguous_problem(these, those) for these, those in ambiguous]
    problems += [_same_file(image) for image, labels_file, _ in matched if _is_same(image.path, labels_file.path)]
    matched = [found for found in matched if not _is_same(found[0].path, found[1].path)]
    severity: Severity = "warning" if matched else "error"
    # Where one file of many was picked, the others are of no interest.
    if not _is_one(labels, label_files):
        problems += _unmatched("image", lone_images, severity)
    if not _is_one(images, image_files):
        problems += _unmatched("labels", lone_labels, severity)
    if not matched and not problems:
        problems = _unmatched("image", lone_images, "error")
    order = {file.path: index for index, file in enumerate(image_files)}
    matched.sort(key=lambda found: order[found[0].path])
    return Pairing(_name_pairs(matched), tuple(problems))


def open_pair(pair: Pair, config: DataConfig) -> tuple[Volume, Volume]:
    """The headers of both files of a pair, opened as ``config`` says. Raises :class:`DataError`."""
    return open_pair_image(pair, config), open_pair_labels(pair, config)


def open_pair_image(pair: Pair, config: DataConfig) -> Volume:
    return open_volume(pair.image, axes=config.axes, channel=config.channel, voxel_size=config.voxel_size)


def open_pair_labels(pair: Pair, config: DataConfig) -> Volume:
    return open_labels(pair.labels, axes=config.axes, voxel_size=config.voxel_size)


def _list(folder: Path) -> list[_File]:
    root = Path(folder)
    found = find_volumes(root)
    if found == [root]:
        return [_File(root, PurePosixPath(stem_of(root)))]
    return [_File(path, PurePosixPath(path.relative_to(root).parent.as_posix()) / stem_of(path)) for path in found]


def _is_one(chosen: Path, files: list[_File]) -> bool:
    """Whether the user chose a single file, not a folder that happens to hold one."""
    return len(files) == 1 and files[0].path == Path(chosen)


def _tell_apart(
    images: Path, labels: Path, image_files: list[_File], label_files: list[_File]
) -> tuple[list[_File], list[_File]]:
    """Where one folder lies in the other, or both are one: no file is image and labels at once."""
    # Folders and files may be given by two spellings or over a link.
    real = {file: os.path.realpath(file.path) for file in (*image_files, *label_files)}
    in_images, in_labels = ({real[file] for file in files} for files in (image_files, label_files))
    if _is_same(images, labels) or in_images == in_labels:
        label_files = [file for file in label_files if _LABEL_AFFIX.search(file.stem)]
        in_labels = {real[file] for file in label_files}
        return [file for file in image_files if real[file] not in in_labels], label_files
    if in_labels < in_images:
        return [file for file in image_files if real[file] not in in_labels], label_files
    if in_images < in_labels:
        return image_files, [file for file in label_files if real[file] not in in_images]
    return image_files, label_files


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, whatever they are called."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


_Matches = list[tuple[_File, _File, str]]
_Groups = list[tuple[list[_File], list[_File]]]


def _match(images: list[_File], labels: list[_File]) -> tuple[_Matches, _Groups, list[_File], list[_File]]:
    """Apply the rules in turn; returns the pairs, the ambiguous groups, and what is left on either side."""
    matched: _Matches = []
    ambiguous: _Groups = []
    for rule, of_image, of_labels in _NAME_RULES:
        ambiguous += _apply(rule, of_image, of_labels, images, labels, matched)
        images, labels = _without(images, matched, ambiguous, 0), _without(labels, matched, ambiguous, 1)
    if not matched and not ambiguous and images and labels:
        for number_rule in (_by_all_numbers, _by_varying_numbers):
            keys = number_rule(images, labels)
            number_ambiguous = _apply("the same number", keys.get, keys.get, images, labels, matched)
            if number_ambiguous and not matched:
                continue
            ambiguous += number_ambiguous
            images, labels = _without(images, matched, ambiguous, 0), _without(labels, matched, ambiguous, 1)
            if matched:
                break
    return matched, ambiguous, images, labels


_Key = Callable[[_File], Hashable | None]


def _apply(
    rule: str, of_image: _Key, of_labels: _Key, images: list[_File], labels: list[_File], matched: _Matches
) -> _Groups:
    """Add to ``matched`` what has one image and one labels file of the same key; return what has more."""
    groups: defaultdict[Hashable, tuple[list[_File], list[_File]]] = defaultdict(lambda: ([], []))
    for side, (files, key_of) in enumerate(((images, of_image), (labels, of_labels))):
        for file in files:
            key = key_of(file)
            if key is not None:
                groups[key][side].append(file)
    ambiguous: _Groups = []
    for these, those in groups.values():
        if len(these) == 1 and len(those) == 1:
            matched.append((these[0], those[0], rule))
        elif these and those:
            ambiguous.append((these, those))
    return ambiguous


def _without(files: list[_File], matched: _Matches, ambiguous: _Groups, side: int) -> list[_File]:
    used = {(image if side == 0 else labels).path for image, labels, _ in matched}
    used |= {file.path for group in ambiguous for file in group[side]}
    return [file for file in files if file.path not in used]


def _relative(file: _File) -> Hashable:
    return file.relative


def _stem(file: _File) -> Hashable:
    return file.stem.casefold()


def _bare(*affixes: re.Pattern[str]) -> _Key:
    """The name without words of these kinds; a name that is nothing but such a word stays."""

    def key(file: _File) -> Hashable:
        stem = file.stem
        for affix in affixes:
            stem = affix.sub("", stem) or stem
        return stem.casefold()

    return key


def _in_folder(key: _Key) -> _Key:
    return lambda file: (file.relative.parent, key(file))


_BARE_IMAGE, _BARE_LABELS = _bare(_IMAGE_AFFIX), _bare(_LABEL_AFFIX)
_BAREST_LABELS = _bare(_LABEL_AFFIX, _IMAGE_AFFIX)
_WORDS_RULE = "the same name but for words such as mask or image"
_NAME_RULES: tuple[tuple[str, _Key, _Key], ...] = (
    ("the same name", _relative, _relative),
    ("the same name", _stem, _stem),
    (_WORDS_RULE, _in_folder(_stem), _in_folder(_BARE_LABELS)),
    (_WORDS_RULE, _stem, _BARE_LABELS),
    (_WORDS_RULE, _in_folder(_BARE_IMAGE), _in_folder(_BAREST_LABELS)),
    (_WORDS_RULE, _BARE_IMAGE, _BAREST_LABELS),
)


def _numbers(file: _File) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _by_all_numbers(images: list[_File], labels: list[_File]) -> dict[_File, Hashable]:
    return {file: numbers for file in (*images, *labels) if (numbers := _numbers(file))}


def _by_varying_numbers(images: list[_File], labels: list[_File]) -> dict[_File, Hashable]:
    """The numbers that differ from file to file, such as the 7 of ``exp2023_007``.

    Numbers that all files of a side share may be left out on one side only: if both sides have their own, they
    may well name two experiments.
    """
    keys: dict[_File, Hashable] = {}
    dropped = 0
    for files in (images, labels):
        rows = [_numbers(file) for file in files]
        if len(rows) < 2 or len({len(row) for row in rows}) != 1:
            return {}
        varying = [index for index, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]
        dropped += len(varying) < len(rows[0])
        keys |= {file: tuple(row[i] for i in varying) for file, row in zip(files, rows, strict=True) if varying}
    return keys if dropped < 2 else {}


def _name_pairs(matched: _Matches) -> tuple[Pair, ...]:
    """Name each pair by its image: by the stem where that is unique, else with its subfolders."""
    stems = [image.stem.casefold() for image, _, _ in matched]
    taken: set[str] = set()
    pairs = []
    for image, labels, rule in matched:
        unique = stems.count(image.stem.casefold()) == 1
        base = image.stem if unique else "_".join(image.relative.parts)
        name, count = base, 1
        while name.casefold() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.casefold())
        pairs.append(Pair(name, image.path, labels.path, rule))
    return tuple(pairs)


def _pair_by_hand(image: _File, labels: _File) -> Pairing:
    if not _is_same(image.path, labels.path):
        return Pairing((Pair(image.stem, image.path, labels.path, "chosen by hand"),), ())
    return Pairing((), (_same_file(image),))


def _same_file(image: _File) -> Problem:
    message = "The same file is given as image and as labels."
    remedy = "Choose the file of the labels, or the folder that they are in."
    return Problem("ambiguous-pair", image.path.name, message, remedy)


def _same_folder(folder: Path) -> Problem:
    message = "Images and labels are in one folder, and no name shows which files are labels."
    remedy = (
        "Add _mask or _label to the names of the labels (a.tif and a_mask.tif), or put them in a folder of their own."
    )
    return Problem("ambiguous-pair", Path(folder).name, message, remedy)


def _ambiguous_problem(images: list[_File], labels: list[_File]) -> Problem:
    if len(labels) > 1:
        where, many, message = images[0], labels, "Several files could be its labels: "
    else:
        where, many, message = labels[0], images, "These labels could belong to several images: "
    message += ", ".join(str(file.relative.parent / file.path.name) for file in many[:4]) + "."
    remedy = "Rename or move files so that each image and its labels have the same name."
    return Problem("ambiguous-pair", where.path.name, message, remedy)


def _unmatched(kind: Literal["image", "labels"], files: list[_File], severity: Severity) -> list[Problem]:
    problems = []
    for file in files:
        if kind == "image":
            message = "There are no labels whose name fits this image."
            remedy = f"Name its labels {file.stem}.tif or {file.stem}_mask.tif; until then the image is left out."
        else:
            message = "There is no image whose name fits these labels."
            remedy = "Give image and labels the same name; until then the labels are left out."
        problems.append(Problem(f"unmatched-{kind}", file.path.name, message, remedy, severity))
    return problems
