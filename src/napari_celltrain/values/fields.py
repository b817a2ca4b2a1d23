"""Facts about the fields of the configuration: label, unit, help, range, choices and default of each.

They are read from ``config.py``; the form, comments in YAML, ``--help`` and error messages are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel

from napari_celltrain.values.config import DEFAULT_AUGMENTATIONS, AugmentationSpec, RunConfig, Shown

AUGMENTATIONS_PATH = "augmentation.augmentations"
AUGMENTATION_CLASSES: dict[str, type[AugmentationSpec]] = {spec.name: type(spec) for spec in DEFAULT_AUGMENTATIONS}


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
        if self.low is None:
            return ""
        if self.high is None:
            return f"{'above' if self.low_excluded else 'at least'} {_number(self.low)}"
        first, joint = ("above", "and at most") if self.low_excluded else ("from", "to")
        return f"{first} {_number(self.low)} {joint} {_number(self.high)}"

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
        kinds = get_args(self.type)
        words = [_NOUNS.get(self.type, "a value"), self.range]
        if self.choices:
            words = [" or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))]
        elif get_origin(self.type) is tuple:
            noun = f"{'two' if len(kinds) == 2 else 'three'} {_NOUNS[kinds[0]].partition(' ')[2]}s"
            words = [noun, self.range, f"such as {list(self.shown.start or self.default)}"]
        return " ".join(filter(None, words)) + (", or empty" if self.optional else "")


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.6g}"


@cache
def all_fields(model: type[BaseModel] = RunConfig) -> dict[str, FieldFacts]:
    """Every field by its dotted path; those of augmentations as ``augmentation.augmentations.elastic.sigma``."""
    return {facts.path: facts for facts in _walk(model, "")}


def field_names(model: type[BaseModel]) -> list[str]:
    """In the order of the class, but what tells the augmentations apart first."""
    return sorted(model.model_fields, key=lambda name: name != "name")


def _walk(model: type[BaseModel], prefix: str) -> Iterator[FieldFacts]:
    for name in field_names(model):
        facts = _facts_of(model, name, prefix + name)
        yield facts
        if facts.path == AUGMENTATIONS_PATH:
            for key, cls in AUGMENTATION_CLASSES.items():
                yield from _walk(cls, f"{facts.path}.{key}.")
        elif facts.section:
            yield from _walk(facts.type, f"{facts.path}.")


def _facts_of(model: type[BaseModel], name: str, path: str) -> FieldFacts:
    field = model.model_fields[name]
    described = (getattr(cls, "model_fields", {}).get(name) for cls in model.__mro__)
    # a subclass that only changes the default has no docstring of its own there
    docstring = " ".join(next((base.description for base in described if base and base.description), "").split())
    kind: Any = field.annotation
    optional = NoneType in get_args(kind)
    if optional:
        kind = next(alternative for alternative in get_args(kind) if alternative is not NoneType)
    section = path == AUGMENTATIONS_PATH or (isinstance(kind, type) and issubclass(kind, BaseModel))
    metadata = list(field.metadata)
    if get_origin(kind) is tuple and not section:
        items = get_args(kind)
        metadata += getattr(items[0], "__metadata__", ())
        kind = tuple[tuple(get_args(item)[0] if get_origin(item) is Annotated else item for item in items)]  # type: ignore[misc]
    found: dict[type, Any] = {type(fact): fact for entry in metadata for fact in getattr(entry, "metadata", (entry,))}
    excluded = found.get(annotated_types.Gt)
    low = excluded.gt if excluded else getattr(found.get(annotated_types.Ge), "ge", None)
    high = getattr(found.get(annotated_types.Le), "le", None)
    shown = found.get(Shown, Shown())
    return FieldFacts(path, docstring, kind, optional, field.default, section, shown, low, high, excluded is not None)
