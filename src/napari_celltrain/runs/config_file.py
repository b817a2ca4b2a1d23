"""``config.yaml``: read, write and change it, and say what is wrong with it in terms of its fields."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ValidationError

from napari_celltrain.values import outside
from napari_celltrain.values.config import SCHEMA_VERSION, Augmentation, RunConfig
from napari_celltrain.values.errors import ConfigError, Problem, raise_problems
from napari_celltrain.values.fields import AUGMENTATION_CLASSES, AUGMENTATIONS_PATH, FieldFacts, all_fields, field_names

MAX_PROBLEMS = 20
"""More would bury what a reader can do."""


def problems_of(error: ValidationError) -> list[Problem]:
    """One problem for each field that is wrong."""
    problems: dict[str, Problem] = {}
    details = error.errors()
    for detail in details:
        # Positions within a tuple say nothing to a reader; an augmentation is known by its name, which follows.
        path = ".".join(part for part in detail["loc"] if isinstance(part, str))
        if len(problems) == MAX_PROBLEMS:
            problems[""] = Problem("config", "and more", f"{len(details)} settings are not right.", "")
            break
        if path not in problems:
            where = outside.shown(path, 100) or "the configuration"
            problems[path] = Problem("config", where, *_explain(path, detail))
    return list(problems.values())


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
        tag, names = str(detail["ctx"]["tag"]), list(AUGMENTATION_CLASSES)
        close = get_close_matches(tag, names, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"The choices are: {', '.join(names)}."
        return f"there is no augmentation called {_shown(tag)}.", remedy
    if kind == "union_tag_not_found":
        return "each augmentation needs its `name`, such as `name: flip`.", ""
    facts = all_fields().get(path)
    if facts is None:
        return f"{detail['msg']}.", ""
    which = "one of them" if isinstance(detail["loc"][-1], int) and kind != "missing" else "it"
    return f"must be {facts.expectation}, and {which} is {_shown(value)}.", ""


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# --- config file -----------------------------------------------------------------------------------------

HEADER = """\
# Configuration of a CellTrain run: celltrain train THIS_FILE
# Every setting is here with its default; those left out keep it. `null` is empty.

"""


def load_config(path: Path) -> RunConfig:
    """Read a configuration. Raises ``ConfigError`` that names the file, and each field that is wrong."""
    if outside.kind_of(path) is None:
        raise ConfigError(f"There is no configuration {path}. `celltrain config --output {path}` writes one.")
    return parse_config(outside.read_text(path, ConfigError, outside.MAX_YAML_BYTES), str(path))


def parse_config(text: str, source: str) -> RunConfig:
    """The configuration in a YAML ``text``, which errors call ``source``."""
    try:
        content = outside.load_yaml(text)
        if not isinstance(content, dict | None):
            raise ConfigError(f"{source} is not a configuration: it must hold settings such as `training:`.")
        return RunConfig.model_validate(content or {})
    except ValidationError as error:
        problems = problems_of(error)
        if len(problems) == 1:
            problems = [replace(problems[0], where=f"{source}, {problems[0].where}")]
        raise ConfigError(*problems, heading=f"{source} has {len(problems)} problems:") from error
    except ValueError as error:
        raise ConfigError(f"{source} is not a configuration. {error}") from error


def dump_config(config: RunConfig, commented: bool = False) -> str:
    """All of ``config`` as YAML that :func:`load_config` reads back to an equal value.

    With ``commented``, every setting has its explanation and its range above it.
    """
    try:
        lines = _block(config, "", commented, depth=0)
    except ValueError as error:  # a path with bytes that are no text in any encoding
        raise ConfigError(f"The configuration cannot be written: {error}. Rename that file or folder.") from error
    return (HEADER if commented else "") + "\n".join(lines).lstrip("\n") + "\n"


def override(
    config: RunConfig,
    assignments: Sequence[str],
    check: Callable[[dict[str, Any]], list[Problem]] | None = None,
) -> RunConfig:
    """``config`` with settings replaced, each given as ``data.channel=1``.

    Values are written as in YAML; tuples also as ``64,64,64``. A field of an augmentation is addressed by the
    augmentation's name: ``augmentation.augmentations.elastic.probability=0.3``. Raises one ``ConfigError``
    with all that is wrong; ``check`` may find more in the changed content.
    """
    content = config.model_dump()
    content["augmentation"]["augmentations"] = list(content["augmentation"]["augmentations"])
    problems = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        facts = all_fields().get(path)
        if not equals:
            problems.append(Problem("config", repr(assignment), "must be KEY=VALUE, such as data.channel=1.", ""))
        elif facts is None:
            problems.append(Problem("config", path, "there is no such setting.", unknown_field(path)))
        else:
            _assign(content, path, _value(facts, text.strip()))
    try:
        changed = RunConfig.model_validate(content)
    except ValidationError as error:
        problems.extend(problems_of(error))
    problems.extend(check(content) if check is not None else [])
    if problems:
        raise ConfigError(*problems, heading=f"{len(problems)} settings are not right:")
    return changed


# --- writing ------------------------------------------------------------------------------------------------


def _block(model: BaseModel, prefix: str, commented: bool, depth: int) -> list[str]:
    indent, content = "  " * depth, model.model_dump(mode="json")
    lines: list[str] = []
    for name in field_names(type(model)):
        value, path = getattr(model, name), prefix + name
        if commented and name != "name":
            facts = all_fields()[path]
            text = f"{facts.help} ({facts.limits})" if facts.limits else facts.help
            # A blank line sets off blocks; within an augmentation the lines stay together.
            blank = [] if prefix.startswith(f"{AUGMENTATIONS_PATH}.") else [""]
            lines += [*blank, *_wrapped(text, indent)]
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *_block(value, f"{path}.", commented, depth + 1)]
        elif path == AUGMENTATIONS_PATH and value:
            lines.append(f"{indent}{name}:")
            for spec in value:
                lines += _list_item(spec, commented, depth + 1)
        else:
            lines.append(f"{indent}{name}: {outside.yaml_scalar(content[name])}")
    return lines


def _list_item(spec: Augmentation, commented: bool, depth: int) -> list[str]:
    lines = _block(spec, f"{AUGMENTATIONS_PATH}.{spec.name}.", commented, depth + 1)
    first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#") and line.strip())
    dash = "  " * depth + "- " + lines[first].lstrip()
    about = _wrapped((type(spec).__doc__ or "").strip(), "  " * depth) if commented else []
    return [*([""] if commented else []), *about, dash, *lines[first + 1 :]]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


# --- changing single settings -------------------------------------------------------------------------------


def _value(facts: FieldFacts, text: str) -> Any:
    """``text`` as the field's type takes it, so that a run may be called 1e3 and a folder 007."""
    if facts.optional and text.lower() in ("", "null", "none", "~"):
        return None
    if facts.type in (str, Path) or get_origin(facts.type) is Literal:
        return text
    if get_origin(facts.type) is tuple and not facts.section and not text.startswith("["):
        text = f"[{text.strip('()')}]"
    try:
        return outside.load_yaml(text)
    except ValueError:
        return text  # validation then says what was expected instead


def _assign(content: Any, path: str, value: Any) -> None:
    """Set the field at ``path``; where an earlier assignment put a plain value in a section's place, validation reports
    that."""
    *sections, field = path.split(".")
    for section in sections:
        if isinstance(content, list):  # of augmentations: one that was left out is added with its defaults
            named = [spec for spec in content if isinstance(spec, dict) and spec.get("name") == section]
            if not named:
                named.append({"name": section})
                content += named
            content = named[0]
        else:
            content = content.get(section) if isinstance(content, dict) else None
    if isinstance(content, dict):
        content[field] = value


# --- settings --------------------------------------------------------------------------------------------


def setting_problems(config: RunConfig | dict[str, Any]) -> list[Problem]:
    """Everything that is wrong with the configuration by itself; ``where`` of each is its field's path.

    Of content that is not validated, sections that are none are left to validation.
    """
    # the help of the command line needs none of these, and SciPy takes as long to load as all the rest
    from napari_celltrain.nets.losses import LOSSES
    from napari_celltrain.nets.models import MODELS

    content = config.model_dump() if isinstance(config, RunConfig) else config
    data, training = content["data"], content["training"]
    problems: list[Problem] = []
    if not isinstance(data, dict) or not isinstance(training, dict):
        return problems

    def refuse(code: str, path: str, message: str, remedy: str = "", *also: str) -> None:
        problems.append(Problem(code, path, message, remedy, settings=(path, *also)))

    for name in ("images", "labels"):
        if data.get(name) is None:
            refuse("missing-folder", f"data.{name}", f"No folder of {name} is given.", "Give one, or a single file.")
    for name, registry in (("model", MODELS), ("loss", LOSSES)):
        try:
            registry[str(training.get(name))]
        except ConfigError as error:
            refuse(f"unknown-{name}", f"training.{name}", str(error))
    if training.get("precision") == "float16" and training.get("device") == "cpu":
        refuse("float16-on-cpu", "training.precision", "float16 is slow and unsafe on a processor.", "Take auto.")
    kind, results = data.get("label_kind"), _with_home(str(data.get("results")))
    if training.get("target") == "objects" and kind != "objects":
        message = f"Objects can only be learned from labels that number them, and label_kind is {kind}."
        remedy = "Take the target auto, or label_kind objects."
        refuse("objects-without-objects", "training.target", message, remedy, "data.label_kind")
    try:
        is_possible = stat.S_ISDIR(results.stat().st_mode)
    except FileNotFoundError:
        is_possible = True  # it is made
    except (OSError, ValueError):  # a file in the way, a name too long or with characters that no name can have
        is_possible = False
    if not is_possible:
        message = f"{outside.shown(results)} is not a folder, and none can be made there."
        refuse("results-is-file", "data.results", message, "Choose a folder for the results.")
    return problems


def check_settings(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths. Raises :class:`ConfigError` with all :func:`setting_problems`."""
    raise_problems(setting_problems(config), ConfigError, "Some settings have to be changed first:")
    return absolute_paths(config)


def _with_home(path: Path | str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for the home of nobody


def absolute_paths(config: RunConfig) -> RunConfig:
    """``config`` with its paths, ``~`` and relative ones, made absolute."""
    sections: dict[str, BaseModel] = {"data": config.data, "training": config.training}
    for key, section in sections.items():
        paths = {name: _with_home(value).absolute() for name, value in section if isinstance(value, Path)}
        sections[key] = section.model_copy(update=paths)
    return config.model_copy(update=sections)
