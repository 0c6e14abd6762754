"""Plants mutations in a copy of the package, and looks which tests of the mirrored folder notice them.

    python -m tests.torture.mutations                   the planted ones of `planted.py`
    python -m tests.torture.mutations --number 60       so many random ones, in the modules of the promise
    python -m tests.torture.mutations --number 20 --module pipeline/care/erase.py --seed 7

Prints one JSON line for each, and the share that was noticed. The random ones are those that mutation tools usually
make: comparisons, `not`, `and` and `or`, constants, arithmetic, statements that are left out, and values that are not
returned. A tool of our own, because half of the protocol is SQL, and because each module has its folder of tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.torture.planted import PLANTED, Planted

ROOT = Path(__file__).parent.parent.parent
COPIED = ("pipeline", "sql", "tests", "dags", "models", "pyproject.toml", "README.md")
MODULES = (
    "pipeline/care/*.py",
    "pipeline/committing/*.py",
    "pipeline/lake/record_store.py",
    "pipeline/lake/layout.py",
    "pipeline/selecting/up_to_date.py",
    "pipeline/staging/*.py",
    "pipeline/storage/local.py",
)
LOADED = ("torch", "duckdb", "pandas", "pyarrow.parquet", "boto3", "moto.moto_server.werkzeug_app")
"""Libraries of the tests, none of which starts a thread when it is loaded."""
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:xdist")
TIMEOUT_S = 600
"""For the fast tests of a room, and again for its slow ones."""
NOT_RUN = 70
NO_TESTS = 5
"""Exit code of pytest: no test has the mark."""
FLIPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}


@dataclass(frozen=True)
class Mutation:
    path: str
    line: int
    what: str
    text: str
    """The whole file with the mutation."""
    tests: tuple[str, ...]


def mutations_of(path: str, source: str) -> Iterator[Mutation]:
    """Yields every mutation of a module; the rest of its text stays as it is."""
    for node in ast.walk(ast.parse(source)):
        for what, replacement in _changes(node):
            if (text := _replaced(source, node, replacement)) is not None:
                yield Mutation(path, getattr(node, "lineno", 0), what, text, _mirrored(path))


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yields what is changed in a node, and the text that takes its place."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in FLIPPED:
            other = FLIPPED[type(operator)]()
            yield _named(operator, other), ast.unparse(ast.Compare(left, [other], [right]))  # type: ignore[list-item]
        case ast.BoolOp(op=operator, values=values):
            other = FLIPPED[type(operator)]()
            yield _named(operator, other), f"({ast.unparse(ast.BoolOp(other, values))})"  # type: ignore[arg-type]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in FLIPPED:
            other = FLIPPED[type(operator)]()
            yield _named(operator, other), f"({ast.unparse(ast.BinOp(left, other, right))})"  # type: ignore[arg-type]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not left out", f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", str(not value)
        case ast.Constant(value=int() as value):
            yield f"{value} -> {value + 1}", str(value + 1)
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.AugAssign():
            yield f"left out: {ast.unparse(node).splitlines()[0][:60]}", "pass"
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield "returns None", "return None"


def _named(before: ast.AST, after: ast.AST) -> str:
    return f"{type(before).__name__} -> {type(after).__name__}"


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _replaced(source: str, node: ast.AST, text: str) -> str | None:
    """Returns the source with another text in place of a node; None if that is no longer a program, or changes none."""
    lines = source.splitlines(keepends=True)
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    before = "".join(lines[: node.lineno - 1]) + _cut(lines[node.lineno - 1], None, node.col_offset)
    after = _cut(lines[node.end_lineno - 1], node.end_col_offset, None) + "".join(lines[node.end_lineno :])
    mutated = before + text + after
    try:
        changed = ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return mutated if changed else None


def _cut(line: str, start: int | None, end: int | None) -> str:
    return line.encode()[start:end].decode()


def _mirrored(path: str) -> tuple[str, ...]:
    """Returns the test files of the module's room, the module's own first: it notices most."""
    room = Path("tests", *Path(path).parts[1:-1])
    files = sorted((ROOT / room).glob("test_*.py"), key=lambda file: (file.stem != f"test_{Path(path).stem}", file))
    return tuple(file.relative_to(ROOT).as_posix() for file in files)


def planted(mutation: Planted) -> Mutation:
    source = (ROOT / mutation.path).read_text()
    assert source.count(mutation.old) == 1, f"{mutation.what}: {mutation.path} has changed"
    line = source[: source.index(mutation.old)].count("\n") + 1
    return Mutation(mutation.path, line, mutation.what, source.replace(mutation.old, mutation.new), mutation.tests)


def chosen(patterns: list[str], number: int, seed: int) -> list[Mutation]:
    """Returns random mutations of the modules, without those of docstrings and of what is only for type checkers."""
    paths = sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})
    found = [each for path in paths for each in mutations_of(path, (ROOT / path).read_text())]
    return random.Random(seed).sample(found, min(number, len(found)))


def is_noticed(copy: Path, mutation: Mutation, *, known: bool, trusted: set[str]) -> str:
    """Plants one mutation in the copy, runs its tests, and takes it out again; returns what noticed it, or nothing.

    The tests of a random one are many: the fast ones come first, then the slow ones. A test that fails without the
    mutation, too, has noticed nothing: that is an error. Those that pass without it are added to `trusted`.
    """
    path = copy / mutation.path
    before = path.read_text()
    _write(path, mutation.text)
    noticed = ""
    try:
        for marks in ("slow or not slow",) if known else ("not slow", "slow"):
            noticed = noticed or _run(copy, mutation.tests, marks)
    finally:
        _write(path, before)
    test = noticed.partition(" ")[2]
    if test and test not in trusted:
        without = _run(copy, (test,), "slow or not slow")
        assert not without, f"{without} without a mutation, too"
        trusted.add(test)
    return noticed


def _write(path: Path, text: str) -> None:
    """Writes a module, and removes its bytecode, which is only compared by size and seconds."""
    path.write_text(text)
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        stale.unlink()


def _run(copy: Path, tests: tuple[str, ...], marks: str) -> str:
    """Runs tests in a fork of this process, which has the libraries loaded: they take longer than most tests."""
    output = copy / "output"
    child = os.fork()
    if child == 0:
        try:
            _become_pytest(copy, output, ["-x", "-q", *WITHOUT, "-m", marks, *tests])
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        os._exit(NOT_RUN)
    begun = time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - begun > TIMEOUT_S:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.1)
    code = os.waitstatus_to_exitcode(ended[1])
    if code in (0, NO_TESTS):
        return ""
    assert code != NOT_RUN, output.read_text()
    names = [line for line in output.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return names[0].split(" - ")[0] if names else f"exit-{code}"


def _become_pytest(copy: Path, output: Path, arguments: list[str]) -> None:
    """Runs pytest in the copy, as a process that was started there would, and ends this process."""
    os.setsid()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "pipeline")]:
        del sys.modules[name]
    code = int(pytest.main(arguments))
    sys.stdout.flush()
    os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.mutations")
    parser.add_argument("--number", type=int, default=0, help="random mutations instead of the planted ones")
    parser.add_argument("--module", action="append", help="a module or pattern; default: those of the promise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="so many of the random ones, to continue an earlier call")
    parser.add_argument("--only", default="", help="of the planted ones, those whose description has this text")
    arguments = parser.parse_args()
    if arguments.number:
        wanted = chosen(arguments.module or list(MODULES), arguments.number, arguments.seed)[arguments.skip :]
    else:
        wanted = [planted(each) for each in PLANTED if arguments.only in each.what]
    for name in LOADED:
        import_module(name)
    survived, trusted = 0, set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            shutil.copytree(source, Path(folder, name)) if source.is_dir() else shutil.copy(source, folder)
        for mutation in wanted:
            begun = time.monotonic()
            noticed = is_noticed(Path(folder), mutation, known=not arguments.number, trusted=trusted)
            survived += not noticed
            line = {"at": f"{mutation.path}:{mutation.line}", "what": mutation.what, "noticed by": noticed or None}
            sys.stdout.write(json.dumps({**line, "s": round(time.monotonic() - begun)}) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - survived} of {len(wanted)} noticed\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
