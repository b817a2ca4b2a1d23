"""Training and validation never share a voxel nor, as far as names show it, a specimen."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target
from napari_celltrain.data.pairs import Pair
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.io.volumes import stem_of
from napari_celltrain.values.config import ZYX
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.text import count, sizes

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")
Span = tuple[int, int]
"""Start and stop along one axis."""

DIVISION_CODES = ("too-small-to-divide", "cannot-be-divided")
"""Codes of the errors: of a single volume, and of several."""
GAP = 8
"""Planes left out between the blocks of a single volume, so that one object seldom lies in both."""
MIN_BLOCK = 16
"""Planes that a block must have along the axis of the cut."""

# Time points of one specimen look alike, so a part of a name that is only a time never distinguishes specimens.
_TIME_WORD = r"(t|tp|time|time[_\-. ]?point|frame|day|hour|week)"
_TIME = re.compile(rf"{_TIME_WORD}[_\-. ]*\d+", re.IGNORECASE)
_TIME_PART = re.compile(rf"((?<![^_\-. ]){_TIME_WORD}[_\-. ]*|(?<=\d){_TIME_WORD})\d+(?![^_\-. ])", re.IGNORECASE)
_SEPARATORS = re.compile(r"[_\-. ]+")
# Names like Emb01 are of a specimen; those like 01 and img01 only count, perhaps from 1 again in each folder.
_COUNTED = (
    "im|img|image|raw|vol|volume|stack|series|file|scan|pos|position|fov|field|view|tile|roi|region|crop|patch|cell|"
    "nucleus|mask|label|part|c|ch|channel|z|s|x|n"
)
_SPECIMEN = re.compile(rf"(?=.*[a-z])(?=.*\d)(?!({_COUNTED})\d+$)")


@dataclass(frozen=True, slots=True)
class Case:
    """A pair, or a block of one, on one side. ``spans`` is None for the whole volume, else those along z, y and x."""

    name: str
    pair: Pair
    spans: tuple[Span, Span, Span] | None
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
) -> Split:
    """Choose the validation side: ``validation_pairs`` where given, else about ``fraction`` of the volumes.

    Volumes are kept together by :func:`group_names`, and where their images' ``fingerprints`` (one for each pair, where
    given) are equal. A single volume is cut in two blocks; both hold foreground by its ``labels`` and ``scheme``, where
    given. Equal arguments give equal splits. Raises :class:`DataError` where there is nothing to split.
    """
    if not pairs:
        message = "There is no image with labels to train on."
        raise DataError(Problem("no-pairs", "images", message, "Check the folders of the images and labels."))
    if validation_pairs:
        sides = zip(SIDES, (pairs, validation_pairs), strict=True)
        cases = [Case(pair.name, pair, None, side) for side, own in sides for pair in own]
        counts = f"{count(len(pairs), 'volume')} for training and {count(len(validation_pairs), 'volume')} for"
        return Split(tuple(cases), f"{counts} validation, from a folder of their own.")
    if len(pairs) == 1:
        return _split_volume(pairs[0], shapes[0], fraction, labels, scheme)
    return _split_groups(pairs, fraction, seed, fingerprints or [None] * len(pairs))


# --- several volumes: groups


def group_names(names: Sequence[str]) -> list[str]:
    """The group of each name: names of one group (one specimen) must not be on both sides.

    Names are cut at ``_``, ``-``, ``.`` and spaces. Parts that are time points (``t05``) and leading parts that
    all names share are passed over, and the group is the first part that is left, in whatever case: ``Emb01_t201``
    and ``Emb01t251`` are of ``Emb01``; so are ``t1_emb01`` and ``exp_Emb01_b``. Where this gives one group, or none
    with two members, as of ``img_001`` and ``img_002``, each name is a group of its own.
    """
    groups = _first_parts(names)
    return groups if 1 < len(set(groups)) < len(groups) and "" not in groups else list(names)


def _first_parts(names: Sequence[str]) -> list[str]:
    """Of each name the first part with a meaning, spelled alike in all names; empty where there is none."""
    parts = [[part for part in _SEPARATORS.split(_TIME_PART.sub("", name)) if part] for name in names]
    while all(len(part) > 1 for part in parts) and len({part[0].casefold() for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    spelling: dict[str, str] = {}
    return [spelling.setdefault(part[0].casefold(), part[0]) if part else "" for part in parts]


def _split_groups(pairs: Sequence[Pair], fraction: float, seed: int, fingerprints: Sequence[str | None]) -> Split:
    by_name = _groups_of(pairs)
    links = [[group, ("same image", own)] if own else [group] for group, own in zip(by_name, fingerprints, strict=True)]
    members = {by_name[first]: indices for first, indices in _places(_join(links)).items()}
    if len(members) < 2:
        message = f"All {len(pairs)} volumes hold the same image, so none can be held out to validate with."
        remedy = "Add a volume of another specimen, or a folder of validation images."
        if len(set(fingerprints)) > 1 or fingerprints[0] is None:
            reason = "since copies of one image are among those of every specimen."
            message = f"The {len(pairs)} volumes cannot be divided, {reason}"
            remedy = "Remove the copies, or add a folder of validation images."
        raise DataError(Problem(DIVISION_CODES[1], "images", message, remedy))
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
    listed = ", ".join(sorted(chosen)[:5]) + (f" and {len(chosen) - 5} more" if len(chosen) > 5 else "")
    together = f"{' and '.join(filter(None, (alike, equal)))} stay on one side ({len(names)} groups)"
    return Split(cases, f"{share}: {listed}; {together}.")


def _places(keys: Iterable[Any]) -> dict[Any, list[int]]:
    """Where each key occurs."""
    places: defaultdict[Any, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        places[key].append(index)
    return places


def _groups_of(pairs: Sequence[Pair]) -> list[str]:
    """The group of each pair: by name within each subfolder; one whose names show no groups is a group itself.

    Subfolders that are time points count as nothing. A specimen in several subfolders (``a/Emb01``, ``b/Emb01``) joins
    what it belongs to there; where all ends up in one group so, the specimens alone count, else the subfolders.
    """
    parts = [[part for part in pair.image.parent.parts if not _TIME.fullmatch(part)] for pair in pairs]
    levels = zip(*parts, strict=False)
    shared = next((depth for depth, level in enumerate(levels) if len(set(level)) > 1), min(map(len, parts)))
    folders = ["/".join(folder[shared:]) or "." for folder in parts]
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


def _units_in_folders(folders: list[str], stems: list[str]) -> tuple[list[str], list[str]]:
    """For each pair: what is kept together in its subfolder, and the name of its specimen, empty where unknown."""
    units = list(folders)
    names = [part if _SPECIMEN.match(part.casefold()) else "" for part in _first_parts(stems)]
    if len(set(folders)) == len(folders):  # the names of the subfolders may show groups as those of files do
        return group_names([f"{one}_{stem}".replace("/", "_") for one, stem in zip(folders, stems, strict=True)]), names
    for folder, members in _places(folders).items():
        own_stems = [stems[index] for index in members]
        own = group_names(own_stems)
        if own != own_stems:
            for index, group in zip(members, own, strict=True):
                units[index], names[index] = f"{folder}/{group}", group
    return units, names


def _join(links: Sequence[Sequence[Hashable]]) -> list[int]:
    """Join items that share a link, directly or over others: for each item the first one that it is joined with."""
    nodes: dict[Hashable, int] = {}
    edges = [(index, nodes.setdefault(link, len(nodes))) for index, own in enumerate(links) for link in own]
    items, linked = np.array(edges, np.int64).reshape(-1, 2).T
    total = len(links) + len(nodes)
    graph = coo_array((np.ones(len(edges), bool), (items, len(links) + linked)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    first: dict[int, int] = {}
    return [first.setdefault(int(number), index) for index, number in enumerate(component[: len(links)])]


def _call(joined: list[int], units: list[str], names: list[str]) -> list[str]:
    """Each group by its unit where both are the same, else by its specimen, else by its first unit; all differ."""
    num_in_unit = Counter(units)
    called: dict[int, str] = {}
    taken: set[str] = set()
    for first, group in _places(joined).items():
        is_unit = {units[index] for index in group} == {units[first]} and num_in_unit[units[first]] == len(group)
        is_specimen = len({names[index].casefold() for index in group}) == 1 and names[first]
        own = names[first] if is_specimen and not is_unit else units[first]
        called[first] = own if own not in taken else f"{own} ({first + 1})"
        taken.add(called[first])
    return [called[first] for first in joined]


def _choose(group_sizes: list[int], wished: float) -> list[int]:
    """Indices of groups whose sizes add up as near to ``wished`` as can be, neither none nor all.

    ``reachable[i]`` has bit n set where some of the first i groups hold n volumes together.
    """
    reachable = [1]
    for size in group_sizes:
        reachable.append(reachable[-1] | reachable[-1] << size)
    total = sum(group_sizes)
    left = min((n for n in range(1, total) if reachable[-1] >> n & 1), key=lambda n: (abs(n - wished), n))
    chosen = []
    for index in range(len(group_sizes) - 1, -1, -1):
        if not reachable[index] >> left & 1:
            chosen.append(index)
            left -= group_sizes[index]
    return chosen


# --- a single volume: blocks


def _split_volume(
    pair: Pair, shape: ZYX, fraction: float, labels: LazyArray | None, scheme: LabelScheme | None
) -> Split:
    """Cut along the longest axis that leaves both blocks foreground."""
    profiles = None if labels is None or scheme is None else _foreground_profiles(labels, scheme)
    needed = 2 * MIN_BLOCK + GAP
    axes = [axis for axis in sorted(range(3), key=lambda a: -shape[a]) if shape[axis] >= needed]
    for axis in axes:
        blocks = _cut(shape[axis], fraction, None if profiles is None else profiles[axis])
        if blocks is None:
            continue
        cases = []
        for side, span in zip(SIDES, blocks, strict=True):
            z, y, x = (span if other == axis else (0, length) for other, length in enumerate(shape))
            cases.append(Case(f"{pair.name}-{side}", pair, (z, y, x), side))
        training, validation = blocks
        explanation = (
            f"There is a single volume, so it is cut along {'zyx'[axis]}: planes {training[0]} to {training[1] - 1} "
            f"are for training and {validation[0]} to {validation[1] - 1} for validation, with a gap between them. "
            "A second volume would make the scores more trustworthy."
        )
        return Split(tuple(cases), explanation)
    message = (
        f"The only volume is too small to hold out a part of it ({sizes(shape)} voxels; one axis must have {needed})."
    )
    remedy = "Add a second volume, or a folder of validation images."
    if axes:
        message = "The labels of the only volume lie so close together that no cut leaves some on both sides."
        remedy = f"Label more of it, a{remedy[1:]}"
    raise DataError(Problem(DIVISION_CODES[0], pair.image.name, message, remedy))


def _foreground_profiles(labels: LazyArray, scheme: LabelScheme) -> list[NDArray[np.int64]] | None:
    """Labelled voxels in each plane across z, y and x; None without any, which the data check reports."""
    profiles = [np.zeros(length, dtype=np.int64) for length in labels.shape]
    for start, slab in slabs(labels):
        target = to_target(slab, scheme)
        foreground = (target > 0) & (target != IGNORE)
        in_plane = foreground.sum(axis=0)
        profiles[0][start : start + len(slab)] = foreground.sum(axis=(1, 2))
        profiles[1] += in_plane.sum(axis=1)
        profiles[2] += in_plane.sum(axis=0)
    return profiles if profiles[0].any() else None


def _cut(length: int, fraction: float, profile: NDArray[np.int64] | None) -> tuple[Span, Span] | None:
    """(training, validation) spans with foreground in both, the validation one at the end where that works."""
    size = min(max(MIN_BLOCK, round(fraction * length)), length - GAP - MIN_BLOCK)
    at_end = ((0, length - size - GAP), (length - size, length))
    at_start = ((size + GAP, length), (0, size))
    for blocks in (at_end, at_start):
        if profile is None or all(profile[start:stop].any() for start, stop in blocks):
            return blocks
    return None
