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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
TIMEOUT_S = 600
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
    return (str(Path("tests", *Path(path).parts[1:-1])),)


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


def is_noticed(copy: Path, mutation: Mutation, *, slow: bool) -> str:
    """Plants one mutation in the copy, runs its tests, and takes it out again; returns what noticed it, or nothing."""
    path = copy / mutation.path
    before = path.read_text()
    path.write_text(mutation.text)
    marks = [] if slow else ["-m", "not slow"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *marks]
    try:
        done = subprocess.run(
            [*command, *mutation.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        path.write_text(before)
    if done.returncode == 0:
        return ""
    names = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return names[0].split(" - ")[0] if names else f"exit {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.mutations")
    parser.add_argument("--number", type=int, default=0, help="random mutations instead of the planted ones")
    parser.add_argument("--module", action="append", help="a module or pattern; default: those of the promise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the planted ones, those whose description has this text")
    parser.add_argument("--slow", action="store_true", help="run slow tests too")
    arguments = parser.parse_args()
    if arguments.number:
        wanted = chosen(arguments.module or list(MODULES), arguments.number, arguments.seed)
    else:
        wanted = [planted(each) for each in PLANTED if arguments.only in each.what]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            shutil.copytree(source, Path(folder, name)) if source.is_dir() else shutil.copy(source, folder)
        for mutation in wanted:
            begun = time.monotonic()
            noticed = is_noticed(Path(folder), mutation, slow=arguments.slow or not arguments.number)
            survived += not noticed
            line = {"at": f"{mutation.path}:{mutation.line}", "what": mutation.what, "noticed by": noticed or None}
            sys.stdout.write(json.dumps({**line, "s": round(time.monotonic() - begun)}) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - survived} of {len(wanted)} noticed\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
