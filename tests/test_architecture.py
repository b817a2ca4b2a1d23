"""The layers of docs/architecture.md: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import napari_celltrain

PACKAGE = "napari_celltrain"
ROOT = Path(napari_celltrain.__file__).parent

LAYERS = ("values", "io", "data", "nets", "engine", "runs", "use", "face")
ROOMS = {
    "": "values",  # the package itself: its version
    "registry": "values",
    "predict": "use",
    "evaluate": "use",
    "share": "use",
    "__main__": "face",
    "cli": "face",
    "samples": "face",
    "widgets": "face",
}
MAX_FILES = 15
MAX_LINES_OF_A_FUNCTION = 60

HEAVY = {"torch", "monai"}
GUI = {"qtpy", "napari", "magicgui", "superqt", "vispy", "PyQt6", "PySide6"}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module; ``lazy`` where it happens only in a function that is called."""

    module: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGE, *(part for part in parts if part != "__init__")))


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}


def layer_of(module: str) -> str:
    first = module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]
    layer = ROOMS.get(first, first)
    assert layer in LAYERS, f"{module} belongs to no layer: add it to the table in docs/architecture.md and here"
    return layer


def imports_of(tree: ast.AST, lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, lazy) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield Import(module, node.lineno, lazy)
                # `from package import module` imports that module, too.
                names = [f"{module}.{alias.name}" for alias in node.names]
                yield from (Import(name, node.lineno, lazy) for name in names if name in MODULES)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from (found for child in node.orelse for found in imports_of(child, lazy))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports_of(node, lazy=True)
            case _:
                yield from imports_of(node, lazy)


IMPORTS = [(path, found) for path in FILES for found in imports_of(ast.parse(path.read_text("utf-8")))]


def where(path: Path, found: Import) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{found.line} imports {found.module}"


def package_of(found: Import) -> str:
    return found.module.partition(".")[0]


def test_a_module_imports_only_from_its_layer_or_above() -> None:
    depth = {module: LAYERS.index(layer_of(module)) for module in MODULES}
    from_below = [
        where(path, found)
        for path, found in IMPORTS
        if package_of(found) == PACKAGE and depth[found.module] > depth[module_name(path)]
    ]
    assert not from_below, "\n".join(from_below)


def test_no_circle_of_imports() -> None:
    """Imports inside functions and for annotations count as well: a circle is a circle for a reader."""
    needs = {module: set[str]() for module in MODULES}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
                needs[module_name(path)] |= names or {node.module} & MODULES
    circles = [part for part in strong_components(needs) if len(part) > 1]
    assert not circles, "\n".join(" <-> ".join(sorted(part)) for part in circles)


def strong_components(needs: dict[str, set[str]]) -> list[set[str]]:
    """Modules that reach each other (by the closure of ``needs``)."""
    reached = {module: set(found) for module, found in needs.items()}
    for middle in needs:
        for module in needs:
            if middle in reached[module]:
                reached[module] |= reached[middle]
    parts = {
        frozenset({module, *(other for other in needs if other in reached[module] and module in reached[other])})
        for module in needs
    }
    return [set(part) for part in parts]


def test_rooms_and_functions_stay_small() -> None:
    folders = Counter(path.parent for path in FILES)
    crowded = [
        f"{folder.relative_to(ROOT)}: {number} files" for folder, number in folders.items() if number > MAX_FILES
    ]
    assert not crowded, "\n".join(crowded)
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_LINES_OF_A_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_only_widgets_know_the_window() -> None:
    seen = [
        where(path, found)
        for path, found in IMPORTS
        if package_of(found) in GUI and "widgets" not in path.relative_to(ROOT).parts
    ]
    assert not seen, "\n".join(seen)


def may_need_torch(path: Path) -> bool:
    """The engine, and what the registries import when a network or an augmentation is built."""
    parts = path.relative_to(ROOT).parts
    return parts[0] == "engine" or parts in (("nets", "architectures.py"), ("nets", "transforms.py"))


def test_torch_and_monai_are_imported_late() -> None:
    early = [
        where(path, found)
        for path, found in IMPORTS
        if package_of(found) in HEAVY and not found.lazy and not may_need_torch(path)
    ]
    assert not early, "\n".join(early)


def modules_loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after ``code`` ran in a fresh interpreter."""
    script = f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import napari_celltrain.cli",
        "import napari_celltrain.samples",
        "from napari_celltrain.nets import augment, losses, models; list(models.MODELS), list(losses.LOSSES)",
        "from napari_celltrain.values.config import RunConfig; RunConfig().model_dump_json()",
    ],
    ids=["command line", "samples", "registries", "configuration"],
)
def test_starts_without_torch_and_without_a_window(code: str) -> None:
    assert not modules_loaded_by(code) & (HEAVY | GUI)


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert not modules_loaded_by("import napari_celltrain") & (HEAVY | GUI | {"numpy", "pydantic"})
