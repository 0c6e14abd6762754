"""The layers of the package, and other promises that no single module can keep."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"

# A module imports from its own layer and from those below. A new module gets its place here.
LAYERS = {
    "doors": ("pipeline", "__main__", "cli", "cli.*"),
    "flow": ("demo", "run", "preview", "stages", "orchestration", "standalone"),
    "stages, and questions about what they stored": (
        *("check", "unscored", "selection", "scoring", "streaming", "staging", "tuning", "commit", "ledger"),
        *("quality", "quality.*"),
        *(
            f"drift.{name}"
            for name in ("edges", "judge", "labels", "performance", "profiling", "stage", "store", "tally")
        ),
        *("status", "views", "query", "catalog"),
        *("explain", "explain.*", "compare", "compare.*", "report", "report.*"),
        *("ingest", "ingest.*", "care", "care.*"),
        *("notify", "notify.*"),
    ),
    "what every stage is given": ("context", "process"),
    "rows, model, lake and machine": (
        *("drift", "drift.counting", "drift.measures", "drift.tables"),
        *("dispositions", "encoding", "features", "keys", "predictions", "scorer", "model", "model.*"),
        *("lake", "storage", "storage.*", "database", "relations", "queries"),
        *("job", "job_tables", "machine", "reserved", "settings"),
    ),
    "words": ("records", "errors"),
}

# What the command line and a check that finds nothing to do import; each of the heavy ones costs 0.1 to 5 s.
LIGHT = (
    "pipeline",
    "pipeline.cli.app",
    "pipeline.run",
    "pipeline.check",
    "pipeline.model.registry",
    "pipeline.orchestration",
)
HEAVY = {"duckdb", "great_expectations", "numpy", "pandas", "pyarrow", "torch"}
MAX_LINES = 400


def module_name(path: Path) -> str:
    """Returns a module's name within the package, such as `model.registry`; of the package itself, `pipeline`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "pipeline"


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def layer(name: str) -> int:
    """Returns the layer's number from the top, or -1 if the module has no place."""
    for number, patterns in enumerate(LAYERS.values()):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return number
    return -1


def imports(node: ast.AST) -> Iterator[str]:
    """Yields the modules of ours that are imported, in functions too, but not those for type checkers alone."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            for statement in node.orelse:
                yield from imports(statement)
        case ast.Import():
            yield from (ours(alias.name) for alias in node.names if is_ours(alias.name))
        case ast.ImportFrom(module=str(source), level=0) if is_ours(source):
            for alias in node.names:
                inner = ours(f"{source}.{alias.name}")
                yield inner if inner in FILES else ours(source)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports(child)


def is_ours(dotted: str) -> bool:
    return dotted == "pipeline" or dotted.startswith("pipeline.")


def ours(dotted: str) -> str:
    return dotted.removeprefix("pipeline.")


IMPORTS = {name: sorted(set(imports(tree)) - {name}) for name, tree in TREES.items()}


@pytest.mark.parametrize("name", FILES)
def test_module_has_one_place_among_the_layers(name: str) -> None:
    assert layer(name) >= 0, f"{name} has no layer yet: add it to LAYERS in {Path(__file__).name}"


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    names = list(LAYERS)
    upward = [f"{other} ({names[layer(other)]})" for other in IMPORTS[name] if layer(other) < layer(name)]
    assert not upward, f"{name} ({names[layer(name)]}) imports from above: {', '.join(upward)}"


def test_imports_form_no_cycle() -> None:
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", FILES)
def test_no_relative_import(name: str) -> None:
    relative = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative, f"{name} imports relatively, which the test of the layers does not read: lines {relative}"


@pytest.mark.parametrize("name", FILES)
def test_name_is_not_one_of_the_standard_library(name: str) -> None:
    taken = set(name.split(".")) & sys.stdlib_module_names
    assert not taken, f"{name}: the standard library has a module {', '.join(taken)}"


@pytest.mark.parametrize("name", FILES)
def test_module_can_be_read_in_one_sitting(name: str) -> None:
    lines = len(FILES[name].read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name} has {lines} lines: make it two modules"


def test_every_folder_is_a_package() -> None:
    missing = {path.parent for path in FILES.values() if not (path.parent / "__init__.py").is_file()}
    assert not missing, f"no __init__.py in {', '.join(str(folder.relative_to(ROOT)) for folder in sorted(missing))}"


@pytest.mark.parametrize("module", LIGHT)
def test_import_of_a_light_module_loads_no_heavy_one(module: str) -> None:
    script = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = HEAVY & set(json.loads(done.stdout))
    assert not loaded, f"{module} imports {', '.join(sorted(loaded))}: do it in the functions that need it"


def test_all_names_everything_public() -> None:
    package = importlib.import_module("pipeline")
    imported = {
        alias.asname or alias.name
        for node in ast.walk(TREES.get("pipeline", ast.Module([], [])))
        if isinstance(node, ast.ImportFrom) and is_ours(str(node.module))
        for alias in node.names
    }
    listed = getattr(package, "__all__", [])
    assert set(listed) >= {name for name in imported if not name.startswith("_")}
    assert [name for name in listed if not hasattr(package, name)] == []
