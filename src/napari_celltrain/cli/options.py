"""Options that are fields of values: named here once, explained by the fields themselves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from rich.markup import escape

from napari_celltrain.runs.config_file import absolute_paths, load_config, override, parse_config, setting_problems
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, ConfigError, Problem
from napari_celltrain.values.fields import all_fields
from napari_celltrain.values.outside import kind_of

argument = partial(typer.Argument, show_default=False)
option = partial(typer.Option, show_default=False)
output_to = partial(option, "--output", "-o")
Json = Annotated[bool, typer.Option("--json", help="Print events for programs, one JSON object a line.")]

_METAVARS: dict[Any, str] = {int: "N", float: "F", Path: "PATH", tuple: "Z,Y,X", "model": "KEY", "loss": "KEY"}
_OPPOSITES = {"augmentation.patches": "/--whole-images", "augmentation.augment": "/--no-augment"}


@dataclass(frozen=True, slots=True)
class FieldOption:
    """Sets the field ``path`` of the configuration, or of ``model``.

    ``own_name`` is for parameters that are not called as the field. ``help`` is for options that the field's own
    explanation does not fit; they stand among the command's own.
    """

    path: str
    metavar: str = ""
    own_name: str = ""
    help: str = ""
    model: type[BaseModel] = RunConfig
    panel: str = ""

    @property
    def name(self) -> str:
        """Of the command's parameter."""
        return self.own_name or self.path.rpartition(".")[2]

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def parameter(self) -> inspect.Parameter:
        facts = all_fields(self.model)[self.path]
        kind: Any = list[str] if get_args(facts.type)[-1:] == (...,) else bool if facts.type is bool else str
        default = str(facts.default).lower() if isinstance(facts.default, bool) else facts.default
        if default is None or self.model is not RunConfig:  # of other values the model or the run decides
            default = ""
        notes = "; ".join(filter(None, [facts.limits, f"default: {default}" if default != "" else ""]))
        section = self.path.partition(".")[0].capitalize() if "." in self.path else "Run"
        explanation = self.help or facts.help
        usual = _METAVARS.get(get_origin(facts.type) or facts.type, self.name.rpartition("_")[2].upper())
        info = typer.Option(
            f"{self.flag}{_OPPOSITES.get(self.path, '')}",
            help=escape(f"{explanation} ({notes})" if notes else explanation),  # brackets would be taken for markup
            metavar=None if kind is bool else self.metavar or _METAVARS.get(self.name, usual),
            rich_help_panel=None if self.help else self.panel or section,
            show_default=False,
        )
        return _keyword(self.name, Annotated[kind | None, info])


_TRAINING_FIELDS = {
    "data.": "images labels results label_kind ignore_value channel axes voxel_size validation_fraction "
    "validation_images validation_labels",
    "augmentation.": "patches patch_size samples_per_volume augment",
    "training.": "model model_size starting_weights target loss epochs batch_size validation_interval learning_rate "
    "seed device max_minutes",
    "": "run_name",
}
TRAIN_OPTIONS = [FieldOption(prefix + name) for prefix, names in _TRAINING_FIELDS.items() for name in names.split()]
_FLAGS = {option.path: option.flag for option in TRAIN_OPTIONS}

Overrides = list[str]
"""Settings from the command line, each as ``data.channel=1``."""


def with_options(
    *options: FieldOption | str, **groups: Sequence[FieldOption]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command ``options`` (or those of the fields at such paths) and ``--set``; those that are used become its
    argument ``overrides``.

    Those of each of the ``groups`` become the argument of that name: a dictionary from fields to values. All values
    are text: the model itself says what is wrong with them, about all at once.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        fields = dict(groups)
        if "overrides" in hints:
            settings = [FieldOption(each) if isinstance(each, str) else each for each in options]
            fields = {"overrides": settings, **fields}

        def command(**arguments: Any) -> None:
            for name, group in fields.items():
                given = {option.path: arguments.pop(option.name) for option in group}
                arguments[name] = {path: value for path, value in given.items() if value is not None}
            if "overrides" in fields:
                used = [f"{path}={value}" for path, value in arguments["overrides"].items()]
                arguments["overrides"] = used + (arguments.pop("set") or [])
            try:
                function(**arguments)
            except CellTrainError as error:
                error.args = (explain(error, flags),)  # here it is known which options this command has
                raise

        own = [p for p in inspect.signature(function).parameters.values() if p.name not in fields]
        parameters = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own]
        parameters += [option.parameter() for group in fields.values() for option in group]
        if "overrides" in fields:
            parameters.append(_keyword("set", _Settings))
        flags = {f"--{p.name.replace('_', '-')}" for p in parameters}
        # typer reads it there, and functions are annotated without it
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


_Settings = Annotated[
    list[str] | None,
    option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other field of the configuration, such as data.normalization=zscore; may be given several times. "
        "`celltrain config` shows them all.",
    ),
]


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def read_settings(source: Path | None, overrides: Overrides) -> RunConfig:
    """The configuration of a file (``-`` is standard input, a run folder its own), changed by the options.

    Raises one ``ConfigError`` about everything that is wrong. Paths in it are absolute, so that the run can be
    resumed from anywhere.
    """
    if source is None:
        base = RunConfig()
    elif str(source) == "-":
        content = sys.stdin.read()
        if not content.strip():
            raise ConfigError("No configuration came by standard input.")
        base = parse_config(content, "standard input")
    else:
        base = load_config(source / "config.yaml" if kind_of(source) == "folder" else source)
    return absolute_paths(override(base, overrides, setting_problems))


def explain(error: CellTrainError, flags: Collection[str] | None = None) -> str:
    """The sentences of an error with the options that help, such as ``(--channel)``: those among ``flags`` alone."""
    return str(CellTrainError(*(worded(problem, flags) for problem in error.problems), heading=error.heading))


def worded(problem: Problem, flags: Collection[str] | None = None) -> Problem:
    """With the options that help (of a command that has ``flags`` only); a field has its own beside its name."""

    def known(flag: str) -> bool:
        return flags is None or flag.split()[0] in flags

    flag = _FLAGS.get(problem.where)
    if flag is not None and known(flag):
        return replace(problem, where=f"{problem.where} ({flag})")
    # settings that are no fields of the configuration are called as their options
    named = (_FLAGS.get(name) or (f"--set {name}=…" if "." in name else f"--{name}") for name in problem.settings)
    helpful = ", ".join(filter(known, named))
    if not helpful or not problem.remedy or problem.code == "no-volumes":  # these folders have been named
        return problem
    return replace(problem, remedy=f"{problem.remedy.removesuffix('.')} ({helpful}).")
