"""The rooms of the package and their order, and other promises that no single module can keep."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"

# The rooms: the modules and folders at the top of the package. Each imports from itself and from those before it.
# docs/architecture.md says what each is for; a new one gets its place in both.
ROOMS = (
    *("errors", "parsing", "columns", "machine", "settings", "periods", "records", "packaged"),
    *("storage", "lake", "job", "database", "tabular", "histograms", "model"),
    *("context", "startup", "engines"),
    *("suite", "ingest", "selecting", "staging", "quality", "profiles", "scoring", "committing", "buckets", "drift"),
    *("query", "publish", "explain", "compare", "report", "care", "notify"),
    *("api", "demo"),
    *("flow", "orchestration", "cli"),
    *("__init__", "__main__"),
)
MOST_ROOMS, MOST_MODULES = 42, 14

# Folders of tests/ that are about the whole, or about what is no room.
ACROSS = {"benchmarks", "docs", "frozen", "retail", "torture", "whole"}

# What the command line and a check that finds nothing to do import; each of the heavy ones costs 0.1 to 5 s.
LIGHT = (
    "pipeline",
    "pipeline.cli.app",
    "pipeline.flow.day",
    "pipeline.selecting.up_to_date",
    "pipeline.model.registry",
    "pipeline.orchestration.tasks",
)
HEAVY = {"duckdb", "great_expectations", "numpy", "pandas", "pyarrow", "torch"}
MAX_LINES = 400


def module_name(path: Path) -> str:
    """Returns a module's name within the package, such as `model.registry`; of the package itself, `pipeline`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "pipeline"


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    """Returns the syntax tree of each module; not at the import of this file, which every worker collects."""
    return {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def room(name: str) -> str:
    """Returns the room in which a module lies."""
    return "__init__" if name == "pipeline" else name.partition(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields our modules that are imported: at the top, in functions, and for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (ours(alias.name) for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and is_ours(str(node.module)):
            for alias in node.names:
                inner = ours(f"{node.module}.{alias.name}")
                yield inner if inner in FILES else ours(str(node.module))


def is_ours(dotted: str) -> bool:
    return dotted == "pipeline" or dotted.startswith("pipeline.")


def ours(dotted: str) -> str:
    return dotted.removeprefix("pipeline.")


@cache
def imports_by_module() -> dict[str, list[str]]:
    return {name: sorted(set(imports(tree)) - {name}) for name, tree in trees().items()}


def in_later_rooms(name: str, used: Iterable[str]) -> list[str]:
    """Returns which of the modules or SELECTs that a module uses lie in rooms after its own."""
    own = ROOMS.index(room(name))
    return [other for other in used if ROOMS.index(room(other.replace("/", "."))) > own]


def test_rooms_are_those_of_the_package() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == set(ROOMS), "a room that is new, or gone, is so in ROOMS and in docs/architecture.md, too"


def test_rooms_are_few_enough_to_be_seen_at_once() -> None:
    modules = [path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(ROOMS) <= MOST_ROOMS
    assert len(modules) <= MOST_MODULES


def test_map_of_the_rooms_lists_all_in_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, flags=re.MULTILINE)
    assert listed == [name for name in ROOMS if not name.startswith("__")]


def test_imports_come_from_rooms_before() -> None:
    later = {name: late for name, used in imports_by_module().items() if (late := in_later_rooms(name, used))}
    assert not later, "these import from rooms that come after their own"


def test_sql_comes_from_rooms_before() -> None:
    queries = {path.relative_to(ROOT / "sql").with_suffix("").as_posix() for path in ROOT.glob("sql/**/*.sql")}
    later = {}
    for name, tree in trees().items():
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        if late := in_later_rooms(name, sorted(queries & texts)):
            later[name] = late
    assert not later, "these read SQL of rooms that come after their own"


def test_folders_of_the_tests_are_the_rooms() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/*.py")}
    assert folders - ACROSS <= set(ROOMS), "a test lies where what it tests lies"


def test_imports_form_no_cycle() -> None:
    try:
        graphlib.TopologicalSorter(imports_by_module()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_no_relative_import() -> None:
    """They are not read by the tests of the rooms."""
    relative = [
        f"{name}, line {node.lineno}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_name_is_not_one_of_the_standard_library() -> None:
    assert [name for name in FILES if set(name.split(".")) & sys.stdlib_module_names] == []


def test_module_can_be_read_in_one_sitting() -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in FILES.items()}
    long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert not long, "make each of these two modules"


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
        for node in ast.walk(trees()["pipeline"])
        if isinstance(node, ast.ImportFrom) and is_ours(str(node.module))
        for alias in node.names
    }
    listed = getattr(package, "__all__", [])
    assert set(listed) >= {name for name in imported if not name.startswith("_")}
    assert [name for name in listed if not hasattr(package, name)] == []
