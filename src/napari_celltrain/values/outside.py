"""What comes from outside: opened, sized, parsed and checked in one way, so that no file can stop or flood the program.

Only regular files are opened: a pipe or a device in a file's place would block or never end. Every reader has a limit
of bytes, every parser a limit of depth. Whatever is wrong becomes one error of the caller's kind that names the file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from napari_celltrain.values.errors import CellTrainError, DataError, Problem

MAX_TEXT_BYTES = 1 << 20
"""Enough for any configuration, card or sidecar; more is not one."""
MAX_YAML_BYTES = 1 << 18
MAX_YAML_DEPTH = 16
MAX_YAML_NODES = 20_000

Error = type[CellTrainError]
Record = TypeVar("Record", bound=BaseModel)


def kind_of(path: Path) -> Literal["file", "folder", "other"] | None:
    """What is at ``path``, links followed; None where nothing is or can be (a name too long, with a NUL, in a loop).

    "other" are pipes, sockets and devices, which nobody should open.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def open_file(path: Path, kind: Error = DataError) -> BufferedReader:
    """A regular file, open for reading. Raises ``kind`` where there is none or it may not be read."""
    try:
        # without O_NONBLOCK a pipe that nobody writes to blocks before it can be recognized
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        _refuse(path, kind, "does not exist.", "Check the path.")
    except OSError as error:
        _refuse(path, kind, f"cannot be read: {error.strerror or error}.")
    except ValueError:
        _refuse(path, kind, "cannot be read: its name holds characters that no file name can have.")
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        _refuse(path, kind, f"cannot be read: it is {what}.", "Give a file.")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int, kind: Error = DataError) -> bytes:
    """All of a regular file of at most ``limit`` bytes. Raises ``kind``."""
    with open_file(path, kind) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            _refuse(path, kind, f"cannot be read: {error.strerror or error}.", "Check the disk.")
    if len(content) > limit:
        _refuse(path, kind, f"is too large: such a file has at most {limit:,} bytes.")
    return content


def read_text(path: Path, kind: Error = DataError, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises ``kind``."""
    try:
        return read_bytes(path, limit, kind).decode("utf-8-sig")
    except UnicodeDecodeError:
        _refuse(path, kind, "is not text in UTF-8.")


def read_json(path: Path, kind: Error = DataError, limit: int = MAX_TEXT_BYTES, *, allow_nan: bool = False) -> Any:
    """The value in a JSON file. Raises ``kind``, also for NaN and Infinity, which are not JSON, unless allowed."""
    try:
        return parse_json(read_text(path, kind, limit), allow_nan=allow_nan)
    except ValueError as error:
        _refuse(path, kind, f"is damaged: it is not JSON ({error}).")


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value in ``text``. Raises ``ValueError``, also for NaN and Infinity and where it is nested too deeply."""
    try:
        return json.loads(text, parse_constant=None if allow_nan else _no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_record(path: Path, record: type[Record], kind: Error = DataError, limit: int = MAX_TEXT_BYTES) -> Record:
    """The content of a JSON file as ``record``, every type checked. Raises ``kind``."""
    return check_record(path, record, read_json(path, kind, limit), kind)


def check_record(path: Path, record: type[Record], content: Any, kind: Error = DataError) -> Record:
    """As :func:`read_record`, of ``content`` that was read from ``path``."""
    try:
        return record.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"])) or "the whole"
        said = detail["msg"].lower().partition(" or instance of ")[0]  # which names our own classes
        _refuse(path, kind, f"is damaged: {place}: {said}.")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _refuse(path: Path, kind: Error, message: str, remedy: str = "") -> NoReturn:
    raise kind(Problem("unreadable", shown(path), message, remedy))


def shown(path: Path | str, longest: int = 200) -> str:
    """``path`` for a message: what cannot be printed is escaped, and the middle of a very long one left out."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


# --- yaml -----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain values: no aliases (they can grow exponentially), no tags, no repeated keys, nothing deep or endless."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it bare
        if isinstance(event, yaml.AliasEvent):
            raise _marked("aliases (*name) are not allowed here", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _marked("tags (!name) are not allowed here", event.start_mark)
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_YAML_DEPTH:
            raise _marked("it is nested too deeply", event.start_mark)
        if self.nodes > MAX_YAML_NODES:
            raise _marked("it has too many entries", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _marked("a key must be a plain word", key.start_mark)
            if key.value in seen:
                raise _marked(f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 without dates and numbers to base 60, which make `run_name: 2026-11-22` a date and a long row of colons a
# computation without end. Each pattern is within the one that PyYAML writes by, so that text it leaves bare stays text.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", list("tTfFyYnNoO")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,29})", list("-+0123456789")),
    ("float", r"([-+]?[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40})([eE][-+][0-9]{1,5})?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _marked(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def load_yaml(text: str) -> Any:
    """The value in ``text``. Raises ``ValueError`` with one sentence where it has none."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError("It is too large for a configuration.")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"Line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{place}{error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"It is not valid YAML ({' '.join(str(error).split())}).") from error


def yaml_scalar(value: Any) -> str:
    """``value`` on one line, such that :func:`load_yaml` returns it."""
    # PyYAML folds the line breaks of Unicode unless it escapes everything beyond ASCII
    plain = re.search("[\x85\u2028\u2029\ufeff]", json.dumps(value, ensure_ascii=False, default=str)) is None
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=plain, width=float("inf"))
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")
