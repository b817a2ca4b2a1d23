"""Options that are fields of the configuration: named here once, explained by the fields themselves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from napari_celltrain.runs.config_file import load_config, override, parse_config
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, ConfigError, Problem
from napari_celltrain.values.fields import all_fields


@dataclass(frozen=True, slots=True)
class ConfigOption:
    """``flag`` sets the field ``path``; with ``opposite`` both are switches without a value.

    ``help`` is for where the field's own explanation does not fit; the option then stands among the command's own.
    """

    flag: str
    path: str
    metavar: str = "VALUE"
    opposite: str = ""
    help: str = ""

    @property
    def parameter(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


IMAGES = ConfigOption("--images", "data.images", "PATH")
LABELS = ConfigOption("--labels", "data.labels", "PATH")
LABEL_KIND = ConfigOption("--label-kind", "data.label_kind", "KIND")
IGNORE_VALUE = ConfigOption("--ignore-value", "data.ignore_value", "N")
CHANNEL = ConfigOption("--channel", "data.channel", "N")
AXES = ConfigOption("--axes", "data.axes", "AXES")
VOXEL_SIZE = ConfigOption("--voxel-size", "data.voxel_size", "Z,Y,X")
PATCH_SIZE = ConfigOption("--patch-size", "augmentation.patch_size", "Z,Y,X")
DEVICE = ConfigOption("--device", "training.device", "DEVICE")

TRAINING_OPTIONS = (
    IMAGES,
    LABELS,
    ConfigOption("--results", "data.results", "PATH"),
    LABEL_KIND,
    IGNORE_VALUE,
    CHANNEL,
    AXES,
    VOXEL_SIZE,
    ConfigOption("--validation-fraction", "data.validation_fraction", "F"),
    ConfigOption("--validation-images", "data.validation_images", "PATH"),
    ConfigOption("--validation-labels", "data.validation_labels", "PATH"),
    ConfigOption("--patches", "augmentation.patches", opposite="--whole-images"),
    PATCH_SIZE,
    ConfigOption("--samples-per-volume", "augmentation.samples_per_volume", "N"),
    ConfigOption("--augment", "augmentation.augment", opposite="--no-augment"),
    ConfigOption("--model", "training.model", "KEY"),
    ConfigOption("--model-size", "training.model_size", "SIZE"),
    ConfigOption("--starting-weights", "training.starting_weights", "PATH"),
    ConfigOption("--target", "training.target", "TARGET"),
    ConfigOption("--loss", "training.loss", "KEY"),
    ConfigOption("--epochs", "training.epochs", "N"),
    ConfigOption("--batch-size", "training.batch_size", "N"),
    ConfigOption("--validation-interval", "training.validation_interval", "N"),
    ConfigOption("--learning-rate", "training.learning_rate", "F"),
    ConfigOption("--seed", "training.seed", "N"),
    DEVICE,
    ConfigOption("--max-minutes", "training.max_minutes", "F"),
    ConfigOption("--run-name", "run_name", "NAME"),
)

Overrides = list[str]
"""Settings from the command line, each as ``data.channel=1``."""


def with_settings(*options: ConfigOption) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the ``options`` and ``--set``; it gets all that are used as its argument ``overrides``.

    They are all taken as text: the configuration itself says what is wrong with them, about all at once.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**arguments: Any) -> None:
            overrides = _given(options, arguments) + (arguments.pop("settings") or [])
            function(overrides=overrides, **arguments)

        own = inspect.signature(function).parameters.values()
        hints = get_type_hints(function, include_extras=True)
        before = [p.replace(annotation=hints[p.name]) for p in own if p.name != "overrides"]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*before, *map(_parameter, options), _settings())]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it there
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def remedy_of(problem: Problem) -> str:
    """What to do, with the options of the settings that help."""
    flags = {option.path: option.flag for option in TRAINING_OPTIONS}
    options = [flags.get(path, f"--set {path}=…") for path in problem.settings]
    return f"{problem.remedy} ({', '.join(options)})" if options else problem.remedy


def with_options(error: CellTrainError) -> str:
    """The error as the command line words it."""
    problems = [replace(problem, remedy=remedy_of(problem)) for problem in error.problems]
    return str(CellTrainError(*problems, heading=error.heading))


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
        base = load_config(source / "config.yaml" if source.is_dir() else source)
    labels = {option.path: f"{option.path} ({option.flag})" for option in TRAINING_OPTIONS}
    return absolute(override(base, overrides, labels, _unusable))


def absolute(config: RunConfig) -> RunConfig:
    """``config`` with the paths of this shell, ``~`` and relative ones, made absolute."""
    data = {name: value.expanduser().absolute() for name, value in config.data if isinstance(value, Path)}
    weights = config.training.starting_weights
    training = {"starting_weights": weights.expanduser().absolute()} if weights is not None else {}
    return config.model_copy(
        update={"data": config.data.model_copy(update=data), "training": config.training.model_copy(update=training)}
    )


def _unusable(content: dict[str, Any]) -> list[Problem]:
    """What each field allows by itself and training still cannot start with."""
    from napari_celltrain.nets.losses import LOSSES
    from napari_celltrain.nets.models import MODELS

    problems = []
    for option in (IMAGES, LABELS):
        name = option.path.partition(".")[2]
        if isinstance(content["data"], dict) and not content["data"].get(name):
            problems.append(Problem("missing", f"data.{name}", f"no {name} are given.", f"Give {option.flag} PATH."))
    for field, registry in (("model", MODELS), ("loss", LOSSES)):
        try:
            if isinstance(content["training"], dict):
                registry[str(content["training"].get(field))]
        except ConfigError as error:
            problems.append(Problem("unknown-choice", f"training.{field} (--{field})", str(error), ""))
    return problems


def _given(options: tuple[ConfigOption, ...], arguments: dict[str, Any]) -> Overrides:
    """The options that were used, taken out of ``arguments``."""
    given = {option.path: arguments.pop(option.parameter) for option in options}
    return [
        f"{path}={str(value).lower() if isinstance(value, bool) else value}"
        for path, value in given.items()
        if value is not None
    ]


def _parameter(option: ConfigOption) -> inspect.Parameter:
    facts = all_fields()[option.path]
    default = str(facts.default).lower() if isinstance(facts.default, bool) else facts.default
    notes = "; ".join(filter(None, [facts.limits, "" if default is None else f"default: {default}"]))
    section = option.path.partition(".")[0].capitalize() if "." in option.path else "Run"
    explanation = option.help or facts.help
    info = typer.Option(
        f"{option.flag}/{option.opposite}" if option.opposite else option.flag,
        help=escape(f"{explanation} ({notes})" if notes else explanation),  # square brackets would be taken for markup
        metavar=None if option.opposite else option.metavar,
        rich_help_panel=None if option.help else section,
        show_default=False,
    )
    return _keyword(option.parameter, Annotated[bool | None if option.opposite else str | None, info])


def _settings() -> inspect.Parameter:
    info = typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other field of the configuration, such as data.normalization=zscore; may be given several times. "
        "`celltrain config` shows them all.",
        show_default=False,
    )
    return _keyword("settings", Annotated[list[str] | None, info])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
