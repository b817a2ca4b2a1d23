"""Refusals of a configuration, in words about its fields rather than about its validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from napari_celltrain.config import SCHEMA_VERSION
from napari_celltrain.errors import ConfigError, Problem
from napari_celltrain.runs.config_fields import all_fields, augmentation_classes


def problems_of(error: ValidationError, labels: Mapping[str, str] | None = None) -> list[Problem]:
    """One problem for each field that is wrong; ``labels`` may name fields otherwise than by their path."""
    problems: dict[str, Problem] = {}
    for detail in error.errors():
        # Positions within a tuple say nothing to a reader; an augmentation is told by its name, which follows.
        path = ".".join(part for part in detail["loc"] if isinstance(part, str))
        where = (labels or {}).get(path, path) or "the configuration"
        problems.setdefault(path, Problem("config", where, *_explain(path, detail)))
    return list(problems.values())


def raise_config_problems(problems: Sequence[Problem], source: str | None = None) -> None:
    """Raise one ``ConfigError`` that names ``source`` (a file) and lists all ``problems``, if there are any."""
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(f"{source}, {problems[0]}" if source else str(problems[0]))
    heading = f"{source} has {len(problems)} problems:" if source else f"{len(problems)} settings are not right:"
    raise ConfigError("\n".join([heading, *(f"  - {problem}" for problem in problems)]))


def unknown_field(path: str) -> str:
    """The remedy for a setting that does not exist: the one that was probably meant."""
    known = [name for name, facts in all_fields().items() if not facts.section]
    leaf = path.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    close = get_close_matches(path, same_leaf, n=1, cutoff=0) or get_close_matches(path, known, n=1)
    if not close:
        leaves = {name.rpartition(".")[2]: name for name in known}
        close = [leaves[match] for match in get_close_matches(leaf, list(leaves), n=1)]
    return f"Did you mean {close[0]}?" if close else "See `celltrain config` for all settings."


def _explain(path: str, detail: Any) -> tuple[str, str]:
    """Message and remedy of one of pydantic's findings."""
    kind, value = detail["type"], detail.get("input")
    if path == "schema_version":
        return (
            f"this file has layout version {_shown(value)}, and this program reads version {SCHEMA_VERSION}.",
            "Update napari-celltrain.",
        )
    if kind == "value_error":
        return f"{detail['ctx']['error']}.", ""
    if kind in ("extra_forbidden", "invalid_key"):
        return "there is no such setting.", unknown_field(path)
    if kind == "union_tag_invalid":
        tag, names = str(detail["ctx"]["tag"]), list(augmentation_classes())
        close = get_close_matches(tag, names, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"The choices are: {', '.join(names)}."
        return f"there is no augmentation called {_shown(tag)}.", remedy
    if kind == "union_tag_not_found":
        return "each augmentation needs its `name`, such as `name: flip`.", ""
    facts = all_fields().get(path)
    if facts is None:
        return f"{detail['msg']}.", ""
    return f"must be {facts.expectation}, and it is {_shown(value)}.", ""


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
