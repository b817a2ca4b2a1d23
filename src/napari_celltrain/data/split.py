"""Training and validation never share a voxel, nor, as far as names tell, a specimen."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target
from napari_celltrain.data.pairs import Pair
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.io.volumes import stem_of
from napari_celltrain.values.config import ZYX
from napari_celltrain.values.errors import DataError

Side = Literal["train", "validation"]
Span = tuple[int, int]
Region = tuple[Span, Span, Span]

GAP = 8
"""Planes left out between the blocks of a single volume, so that one object seldom lies in both."""
MIN_BLOCK = 16
"""Planes that a block must have along the axis of the cut."""

# Time points of one specimen look alike, so a part of a name that only tells the time never tells specimens apart.
_TIME_WORD = r"(t|tp|time|time[_\-. ]?point|frame|day|hour|week)"
_TIME = re.compile(rf"{_TIME_WORD}[_\-. ]*\d+", re.IGNORECASE)
_TIME_PART = re.compile(rf"(?<![^_\-. ]){_TIME_WORD}[_\-. ]*\d+(?![^_\-. ])", re.IGNORECASE)
_TIME_AFTER_DIGIT = re.compile(rf"(?<=\d){_TIME_WORD}\d+(?![^_\-. ])", re.IGNORECASE)
_SEPARATORS = re.compile(r"[_\-. ]+")
# Names like Emb01 are of a specimen; those like 01 and img01 only count, perhaps anew in each folder.
_COUNTED = (
    "im|img|image|raw|vol|volume|stack|series|file|scan|pos|position|fov|field|view|tile|roi|region|crop|patch|cell|"
    "nucleus|mask|label|part|c|ch|channel|z|s|x|n"
)
_SPECIMEN = re.compile(rf"(?=.*[a-z])(?=.*\d)(?!({_COUNTED})\d+$)")


@dataclass(frozen=True, slots=True)
class Case:
    """A pair, or a block of one, on one side. ``region`` is None for the whole volume, else (start, stop) along
    z, y and x."""

    name: str
    pair: Pair
    region: Region | None
    side: Side


@dataclass(frozen=True, slots=True)
class Split:
    cases: tuple[Case, ...]
    explanation: str
    """How the sides were chosen: a sentence or two for people."""

    @property
    def train(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.side == "train")

    @property
    def validation(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.side == "validation")


def split_cases(
    pairs: Sequence[Pair],
    shapes: Sequence[ZYX],
    fraction: float,
    seed: int,
    *,
    validation_pairs: Sequence[Pair] = (),
    labels: LazyArray | None = None,
    scheme: LabelScheme | None = None,
    fingerprints: Sequence[str | None] = (),
    gap: int = GAP,
) -> Split:
    """Choose the validation side: ``validation_pairs`` where given, else about ``fraction`` of the volumes.

    Volumes are kept together by :func:`group_names`, and where their images' ``fingerprints`` (one for each pair, where
    given) are equal. A single volume is cut in two blocks; its ``labels`` and
    ``scheme``, where given, see to it that both hold foreground. Equal arguments give equal splits. Raises
    :class:`DataError` where there is nothing to split.
    """
    if not pairs:
        raise DataError("There is no image with labels to train on. Check the folders of the images and labels.")
    if validation_pairs:
        cases = [Case(pair.name, pair, None, "train") for pair in pairs]
        cases += [Case(pair.name, pair, None, "validation") for pair in validation_pairs]
        counts = f"{_volumes(len(pairs))} for training and {_volumes(len(validation_pairs))} for validation"
        return Split(tuple(cases), f"{counts.capitalize()}, from a folder of their own.")
    if len(pairs) == 1:
        return _split_volume(pairs[0], shapes[0], fraction, gap, labels, scheme)
    return _split_groups(pairs, fraction, seed, fingerprints or [None] * len(pairs))


def group_names(names: Sequence[str]) -> list[str]:
    """The group of each name: names of one group (one specimen) must not be on both sides.

    Names are cut at ``_``, ``-``, ``.`` and spaces. Parts that are time points (``t05``) and leading parts that
    all names share are passed over, and the group is the first part that is left, in whatever case: ``Emb01_t201``
    and ``Emb01t251`` are of ``Emb01``; so are ``t1_emb01`` and ``exp_Emb01_b``. Where this gives one group, or none
    with two members, as of ``img_001`` and ``img_002``, each name is a group of its own.
    """
    groups = _first_parts(names)
    if len(set(groups)) < 2 or len(set(groups)) == len(groups) or "" in groups:
        return list(names)
    return groups


def _first_parts(names: Sequence[str]) -> list[str]:
    """Of each name the first part that tells something, spelled alike in all names; empty where none does."""
    timeless = [_TIME_AFTER_DIGIT.sub("", _TIME_PART.sub("", name)) for name in names]
    parts = [[part for part in _SEPARATORS.split(name) if part] for name in timeless]
    while all(len(part) > 1 for part in parts) and len({part[0].casefold() for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    spelling: dict[str, str] = {}
    return [spelling.setdefault(part[0].casefold(), part[0]) if part else "" for part in parts]


def _split_groups(pairs: Sequence[Pair], fraction: float, seed: int, fingerprints: Sequence[str | None]) -> Split:
    by_name = _groups_of(pairs)
    joined = _join(
        [
            [group, *(() if own is None else (("same image", own),))]
            for group, own in zip(by_name, fingerprints, strict=True)
        ]
    )
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, first in enumerate(joined):
        members[by_name[first]].append(index)
    if len(members) < 2:
        raise DataError(_all_the_same(pairs, fingerprints))
    names = sorted(members)
    random.Random(seed).shuffle(names)
    chosen = {names[i] for i in _choose([len(members[name]) for name in names], fraction * len(pairs))}
    held_out = {index for name in chosen for index in members[name]}
    cases = tuple(
        Case(pair.name, pair, None, "validation" if index in held_out else "train") for index, pair in enumerate(pairs)
    )
    share = f"{len(held_out)} of {len(pairs)} volumes are held out for validation"
    if len(names) == len(pairs):
        return Split(cases, f"{share}, chosen by the seed.")
    alike = "volumes whose names begin alike" if len(set(by_name)) < len(pairs) else ""
    equal = "volumes that hold the same image" if len(members) < len(set(by_name)) else ""
    together = f"{' and '.join(filter(None, (alike, equal)))} stay on one side ({len(names)} groups)"
    return Split(cases, f"{share}: {_listed(sorted(chosen))}; {together}.")


def _all_the_same(pairs: Sequence[Pair], fingerprints: Sequence[str | None]) -> str:
    if len(set(fingerprints)) == 1 and fingerprints[0] is not None:
        return (
            f"All {len(pairs)} volumes hold the same image, so none can be held out to validate with. Add a volume of "
            "another specimen, or a folder of validation images."
        )
    return (
        f"The {len(pairs)} volumes cannot be divided, since copies of one image are among those of every specimen. "
        "Remove the copies, or add a folder of validation images."
    )


def _groups_of(pairs: Sequence[Pair]) -> list[str]:
    """The group of each pair: by name within each subfolder; one whose names tell no groups is a group itself.

    Subfolders that are time points count as nothing. A specimen in several subfolders (``a/Emb01``, ``b/Emb01``) joins
    what it belongs to there; where all ends up in one group so, the specimens alone count, else the subfolders.
    """
    folders = _timeless_folders(pairs)
    stems = [stem_of(pair.image) for pair in pairs]
    if len(set(folders)) == 1:
        groups = group_names(stems)
        return groups if len(set(groups)) > 1 else [pair.name for pair in pairs]
    units, names = _units_in_folders(folders, stems)
    by_unit = [[("unit", unit)] for unit in units]
    by_name = [[("name", name.casefold())] if name else [] for name in names]
    both = [one + other for one, other in zip(by_unit, by_name, strict=True)]
    either = [other or one for one, other in zip(by_unit, by_name, strict=True)]
    for links in (both, either, by_unit):
        joined = _join(links)
        if len(set(joined)) > 1:
            return _call(joined, units, names)
    return [pair.name for pair in pairs]


def _timeless_folders(pairs: Sequence[Pair]) -> list[str]:
    """The subfolder of each pair below the one that all share, without those that only tell the time."""
    folders = [[part for part in pair.image.parent.parts if not _TIME.fullmatch(part)] for pair in pairs]
    shared = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return ["/".join(folder[shared:]) or "." for folder in folders]


def _units_in_folders(folders: list[str], stems: list[str]) -> tuple[list[str], list[str]]:
    """For each pair: what is kept together in its subfolder, and the name of its specimen, empty where not told."""
    units = list(folders)
    names = [part if _SPECIMEN.match(part.casefold()) else "" for part in _first_parts(stems)]
    if len(set(folders)) == len(folders):  # the names of the subfolders may tell groups as those of files do
        whole = [f"{folder}_{stem}".replace("/", "_") for folder, stem in zip(folders, stems, strict=True)]
        return group_names(whole), names
    members_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, folder in enumerate(folders):
        members_of[folder].append(index)
    for folder, members in members_of.items():
        own_stems = [stems[index] for index in members]
        own = group_names(own_stems)
        if own != own_stems:
            for index, group in zip(members, own, strict=True):
                units[index], names[index] = f"{folder}/{group}", group
    return units, names


def _join(links: Sequence[Sequence[Hashable]]) -> list[int]:
    """Join what shares a link, directly or over others: for each item the first one that it is joined with."""
    parent = list(range(len(links)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]  # so that the way is shorter next time
            index = parent[index]
        return index

    holders: dict[Hashable, int] = {}
    for index, own in enumerate(links):
        for link in own:
            one, other = sorted((root(index), root(holders.setdefault(link, index))))
            parent[other] = one
    return [root(index) for index in range(len(links))]


def _call(joined: list[int], units: list[str], names: list[str]) -> list[str]:
    """Each group by its unit where both are the same, else by its specimen, else by its first unit; all differ."""
    groups_in: defaultdict[str, set[int]] = defaultdict(set)
    units_of: defaultdict[int, set[str]] = defaultdict(set)
    names_of: defaultdict[int, set[str]] = defaultdict(set)
    for first, unit, name in zip(joined, units, names, strict=True):
        groups_in[unit].add(first)
        units_of[first].add(unit)
        names_of[first].add(name.casefold())
    called: dict[int, str] = {}
    taken: set[str] = set()
    for first in sorted(units_of):
        same = len(units_of[first]) == len(groups_in[units[first]]) == 1
        by_name = not same and len(names_of[first]) == 1 and names[first]
        own = names[first] if by_name else units[first]
        called[first] = own if own not in taken else f"{own} ({first + 1})"
        taken.add(called[first])
    return [called[first] for first in joined]


def _choose(sizes: list[int], wished: float) -> list[int]:
    """Indices of groups whose sizes add up as near to ``wished`` as can be, neither none nor all.

    ``reachable[i]`` has bit n set where some of the first i groups hold n volumes together.
    """
    reachable = [1]
    for size in sizes:
        reachable.append(reachable[-1] | reachable[-1] << size)
    total = sum(sizes)
    left = min((n for n in range(1, total) if reachable[-1] >> n & 1), key=lambda n: (abs(n - wished), n))
    chosen = []
    for index in range(len(sizes) - 1, -1, -1):
        if not reachable[index] >> left & 1:
            chosen.append(index)
            left -= sizes[index]
    return chosen


def _split_volume(
    pair: Pair, shape: ZYX, fraction: float, gap: int, labels: LazyArray | None, scheme: LabelScheme | None
) -> Split:
    """Cut along the longest axis that leaves both blocks foreground."""
    axes = [axis for axis in sorted(range(3), key=lambda a: -shape[a]) if shape[axis] >= 2 * MIN_BLOCK + gap]
    if not axes:
        raise DataError(
            f"{pair.image.name}: is the only volume and too small to hold out a part of it ({_sizes(shape)} voxels; "
            f"one axis must have {2 * MIN_BLOCK + gap}). Add a second volume, or a folder of validation images."
        )
    profiles = None if labels is None or scheme is None else _foreground_profiles(labels, scheme)
    if profiles is not None and not profiles[0].any():
        profiles = None  # nothing labelled: the data check says so
    for axis in axes:
        blocks = _cut(shape[axis], fraction, gap, None if profiles is None else profiles[axis])
        if blocks is not None:
            return _blocks_as_split(pair, shape, axis, *blocks)
    raise DataError(
        f"{pair.image.name}: is the only volume, and its labels lie so close together that no cut leaves some on both "
        "sides. Label more of it, add a second volume, or a folder of validation images."
    )


def _foreground_profiles(labels: LazyArray, scheme: LabelScheme) -> list[NDArray[np.int64]]:
    """Labelled voxels in each plane across z, y and x."""
    profiles = [np.zeros(length, dtype=np.int64) for length in labels.shape]
    for start, slab in slabs(labels):
        target = to_target(slab, scheme)
        foreground = (target > 0) & (target != IGNORE)
        in_plane = foreground.sum(axis=0)
        profiles[0][start : start + len(slab)] = foreground.sum(axis=(1, 2))
        profiles[1] += in_plane.sum(axis=1)
        profiles[2] += in_plane.sum(axis=0)
    return profiles


def _cut(length: int, fraction: float, gap: int, profile: NDArray[np.int64] | None) -> tuple[Span, Span] | None:
    """(training, validation) spans with foreground in both, the validation one at the end where that works."""
    size = min(max(MIN_BLOCK, round(fraction * length)), length - gap - MIN_BLOCK)
    at_end = ((0, length - size - gap), (length - size, length))
    at_start = ((size + gap, length), (0, size))
    for training, validation in (at_end, at_start):
        if profile is None or (profile[slice(*training)].any() and profile[slice(*validation)].any()):
            return training, validation
    return None


def _blocks_as_split(pair: Pair, shape: ZYX, axis: int, training: Span, validation: Span) -> Split:
    def case(side: Side, span: Span) -> Case:
        spans: list[Span] = [(0, length) for length in shape]
        spans[axis] = span
        return Case(f"{pair.name}-{side}", pair, (spans[0], spans[1], spans[2]), side)

    name = "zyx"[axis]
    explanation = (
        f"There is a single volume, so it is cut along {name}: planes {training[0]} to {training[1] - 1} are for "
        f"training and {validation[0]} to {validation[1] - 1} for validation, with a gap between them. "
        "A second volume would make the scores more trustworthy."
    )
    return Split((case("train", training), case("validation", validation)), explanation)


def _volumes(count: int) -> str:
    return "1 volume" if count == 1 else f"{count} volumes"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _sizes(shape: ZYX) -> str:
    return " × ".join(map(str, shape))
