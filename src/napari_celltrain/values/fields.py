"""Facts about the fields of the configuration: label, unit, help, range, choices and default of each.

They are read from ``config.py``; the form, comments in YAML, ``--help`` and error messages are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from napari_celltrain.values.config import Augmentation, AugmentationSpec, RunConfig, Shown

AUGMENTATIONS_PATH = "augmentation.augmentations"


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """One field; ``type`` is its type without ``None``, ``section`` tells a block of fields from a value.

    The bounds are those of the value or, of several numbers, of each.
    """

    path: str
    help: str
    type: Any
    optional: bool
    default: Any
    section: bool
    shown: Shown
    low: float | None = None
    high: float | None = None
    low_excluded: bool = False

    @property
    def label(self) -> str:
        """What every face calls the field, such as ``Batch size``."""
        return self.shown.label or self.path.rpartition(".")[2].replace("_", " ").capitalize()

    def choice_label(self, key: str) -> str:
        return self.shown.choices.get(key) or {"auto": "automatic"}.get(key) or key.replace("_", " ")

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(map(str, get_args(self.type))) if get_origin(self.type) is Literal else ()

    @property
    def range(self) -> str:
        """Such as ``from 0.05 to 0.8`` or ``above 0``; empty where there are no bounds."""
        low = "" if self.low is None else f"{'above' if self.low_excluded else 'from'} {number(self.low)}"
        if self.high is None:
            return low if self.low_excluded or not low else f"at least {low.removeprefix('from ')}"
        joint = " and at most" if self.low_excluded else " to"
        return f"{low}{joint} {number(self.high)}" if low else f"at most {number(self.high)}"

    @property
    def limits(self) -> str:
        """The choices or the range, for readers of help; empty where everything is allowed."""
        lists = {"training.model": "models", "training.loss": "losses"}
        if self.path in lists:
            return f"see `celltrain list {lists[self.path]}`"
        return "" if self.path == "schema_version" else ", ".join(self.choices) or self.range

    @property
    def expectation(self) -> str:
        """What a value must be, in words that follow "must be"."""
        if self.section:
            return "a block of settings" if self.path != AUGMENTATIONS_PATH else "a list of augmentations"
        if self.choices:
            words = " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        elif get_origin(self.type) is tuple:
            example = self.shown.start or self.default
            kinds = get_args(self.type)
            noun = f"{_COUNTS[len(kinds)]} {_NOUNS[kinds[0]].partition(' ')[2]}s"
            words = " ".join(filter(None, (noun, self.range, f"such as {list(example)}")))
        else:
            words = " ".join(filter(None, (_NOUNS.get(self.type, "a value"), self.range)))
        return f"{words}, or empty" if self.optional else words


_COUNTS = {2: "two", 3: "three"}
_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.6g}"


@cache
def all_fields(model: type[BaseModel] = RunConfig) -> dict[str, FieldFacts]:
    """Every field by its dotted path; those of augmentations as ``augmentation.augmentations.elastic.sigma``."""
    return {facts.path: facts for facts in _walk(model, "")}


def label_of(path: str) -> str:
    """The label of the field at ``path``; of anything else, the path itself."""
    facts = all_fields().get(path)
    return path if facts is None else facts.label


def facts_of(model: type[BaseModel], name: str, path: str = "") -> FieldFacts:
    """One field of a model, which is at ``path`` of the configuration where it belongs to that."""
    field = model.model_fields[name]
    described = (getattr(cls, "model_fields", {}).get(name) for cls in model.__mro__)
    # a subclass that only changes the default has no docstring of its own there
    docstring = " ".join(next((base.description for base in described if base and base.description), "").split())
    kind: Any = field.annotation
    alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    optional = NoneType in alternatives
    kind = next(alternative for alternative in alternatives if alternative is not NoneType)
    section = path == AUGMENTATIONS_PATH or (isinstance(kind, type) and issubclass(kind, BaseModel))
    metadata = list(field.metadata)
    if get_origin(kind) is tuple and not section:
        items = get_args(kind)
        metadata += getattr(items[0], "__metadata__", ())
        kind = tuple[tuple(get_args(item)[0] if get_origin(item) is Annotated else item for item in items)]  # type: ignore[misc]
    shown, bounds = Shown(), dict[str, Any]()
    for entry in metadata:
        for fact in entry.metadata if isinstance(entry, FieldInfo) else (entry,):
            match fact:
                case Shown():
                    shown = fact
                case annotated_types.Ge():
                    bounds["low"] = fact.ge
                case annotated_types.Gt():
                    bounds |= {"low": fact.gt, "low_excluded": True}
                case annotated_types.Le():
                    bounds["high"] = fact.le
    return FieldFacts(path or name, docstring, kind, optional, field.default, section, shown, **bounds)


def augmentation_classes() -> dict[str, type[AugmentationSpec]]:
    union = get_args(Augmentation)[0]
    return {cls.model_fields["name"].default: cls for cls in get_args(union)}


def field_names(model: type[BaseModel]) -> list[str]:
    """In the order of the class, but what tells the augmentations apart first."""
    return sorted(model.model_fields, key=lambda name: name != "name")


def _walk(model: type[BaseModel], prefix: str) -> Iterator[FieldFacts]:
    for name in field_names(model):
        facts = facts_of(model, name, prefix + name)
        yield facts
        if facts.path == AUGMENTATIONS_PATH:
            for key, cls in augmentation_classes().items():
                yield from _walk(cls, f"{facts.path}.{key}.")
        elif facts.section:
            yield from _walk(facts.type, f"{facts.path}.")
