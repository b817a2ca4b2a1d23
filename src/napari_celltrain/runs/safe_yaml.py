"""YAML from strangers: plain values only, and nothing that explodes or nests without end."""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 16


class _Loader(yaml.SafeLoader):
    """A safe loader that also refuses aliases (they can grow exponentially), deep nesting and repeated keys."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it bare
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed here", event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refusal("it is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                raise _refusal(f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


# `run_name: 2026-11-22` is a name, not a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> Any:
    """The value that ``text`` writes. Raises ``ValueError`` with one sentence on anything else."""
    if len(text) > MAX_BYTES:
        raise ValueError("It is too large for a configuration.")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"Line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{place}{error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"It is not valid YAML ({' '.join(str(error).split())}).") from error


def dump_scalar(value: Any) -> str:
    """``value`` on one line, such that :func:`load` gives it back."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")
