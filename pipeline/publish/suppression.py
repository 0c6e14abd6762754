"""Suppression lists: those to whom nothing may be sent. Whoever is on a list is not in an export, or there is none."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, FunctionExpression

from pipeline.database import sql_files
from pipeline.database.connection import column_types
from pipeline.database.keys import canonical
from pipeline.errors import DeliveryFailed, DeliveryRefused, InputError, LakescoreError, counted, nearest
from pipeline.job.schedule import seconds
from pipeline.job.targets import Suppression
from pipeline.records import FileInfo, Stored
from pipeline.storage import LocalStorage, Storage
from pipeline.tabular import sources

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import Expression

SUPPLY = "get the list again, then lakescore publish; nothing was sent"


class Applied(Stored):
    """What a suppression list was, and what it removed."""

    name: str
    files: tuple[str, ...]
    sha256: str
    """Digest over the contents of its files, in the order of their names."""
    changed_at: datetime
    """Time of the last change of its oldest file."""
    listed: int
    """Number of different values in the list."""
    removed: int
    """Number of rows that it removed and no list before it did."""


def suppress(
    con: Connection, lists: Sequence[Suppression], storage: Storage, key: Sequence[str], as_of: datetime, scratch: Path
) -> list[Applied]:
    """Creates the table `suppressed` from the view `scored`: the keys that a list names. Returns what each list did.

    Raises DeliveryFailed for a list that is missing or too old, DeliveryRefused for one that is empty, or cannot be
    compared with the rows.
    """
    rows = con.view("scored")
    rows.select("__key").limit(0).create("suppressed")
    types = {name: canonical(kind) for name, kind in column_types(rows).items()}
    done = []
    for number, each in enumerate(lists):
        holder = LocalStorage(Path("/")) if each.path.startswith("/") else storage
        files = _files(each, holder, as_of)
        folder = scratch / f"list-{number}"
        folder.mkdir()
        paths, digest = _copied(holder, [file for file, _ in files], folder)
        columns = _columns(each, key, types)
        listed = _read(con, each, paths, columns, types)
        rows.select("__key", _value(columns)).create_view("looked_up", replace=True)
        _check_spaces(con, each)
        (before,) = con.sql("SELECT count(*) FROM suppressed").fetchall()[0]
        con.sql(sql_files.load("publish/suppressed")).insert_into("suppressed")
        (after,) = con.sql("SELECT count(*) FROM suppressed").fetchall()[0]
        oldest = min(changed for _, changed in files)
        names = tuple(file.path for file, _ in files)
        done.append(
            Applied(
                name=each.name, files=names, sha256=digest, changed_at=oldest, listed=listed, removed=after - before
            )
        )
    return done


def _files(each: Suppression, storage: Storage, as_of: datetime) -> list[tuple[FileInfo, datetime]]:
    """Returns the files of a list with the time of their last change. Raises DeliveryFailed, DeliveryRefused."""
    found, others = storage.glob(each.path)
    if others:
        path, what = next(iter(others.items()))
        raise _refused(each, "it matches something that is not a file", storage.where(path), got=what)
    if not found:
        raise _refused(each, "it is missing", storage.where(each.path), kind=DeliveryFailed)
    dated = []
    for file in found:
        try:
            dated.append(storage.stat(file.path))
        except FileNotFoundError:
            raise _refused(each, "it is missing", storage.where(file.path), kind=DeliveryFailed) from None
    for file, changed in dated:
        if as_of - changed > timedelta(seconds=seconds(each.max_age)):
            raise _refused(
                each,
                "it is too old",
                storage.where(file.path),
                expected=f"changed within {each.max_age} (max_age)",
                got=f"last changed {changed:%Y-%m-%d %H:%M} UTC",
                kind=DeliveryFailed,
            )
    return dated


def _copied(storage: Storage, files: Sequence[FileInfo], folder: Path) -> tuple[list[Path], str]:
    """Copies files, so that what is read is what the digest is of. Returns the copies, and the sha256 over all."""
    total, paths = hashlib.sha256(), []
    for number, file in enumerate(files):
        paths.append(folder / f"{number:05d}-{file.path.rpartition('/')[2]}")
        with storage.open(file.path) as source, paths[-1].open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        with paths[-1].open("rb") as copy:
            total.update(hashlib.file_digest(copy, "sha256").digest())
    return paths, total.hexdigest()


def _columns(each: Suppression, key: Sequence[str], types: Mapping[str, str]) -> dict[str, str]:
    """Returns the columns of the rows that are compared, each with the name that it has in the list."""
    if each.on is None:
        if each.column is not None and len(key) > 1:
            raise DeliveryRefused(
                f"suppression list {each.name}: `column` is for a key of one column",
                got=f"the key {', '.join(key)}",
                next_step="let the list have the columns of the key, or compare another one: on = ...",
            )
        return {name: each.column or name for name in key}
    if each.on not in types or each.on.startswith("__"):
        known = [name for name in types if not name.startswith("__")]
        raise DeliveryRefused(
            f"suppression list {each.name}: the predictions have no column {each.on!r}{nearest(each.on, known)}",
            expected=", ".join(known),
            next_step="carry it along: [input] carry = [...]",
        )
    return {each.on: each.column or each.on}


def _read(
    con: Connection, each: Suppression, paths: Sequence[Path], columns: Mapping[str, str], types: Mapping[str, str]
) -> int:
    """Creates the table `listed` with the values of a list as `__value`, in the type of the rows. Returns how many."""
    try:
        files = sources.find(paths)
        with sources.translated_read_errors(files):
            kinds = column_types(sources.read(con, files, text=list(columns.values())))
            names = list(kinds)
            if missing := [name for name in columns.values() if name not in names]:
                raise _refused(
                    each, f"it has no column {missing[0]!r}{nearest(missing[0], names)}", got=", ".join(names)
                )
            _check_types(each, columns, types, kinds)
            typed = dataclasses.replace(files, types={name: types[column] for column, name in columns.items()})
            found = sources.read(con, typed)
            values = [ColumnExpression(name) for name in columns.values()]
            absent = values[0].isnull()
            for other in values[1:]:
                absent |= other.isnull()
            rows, nulls = (
                found.select(absent.alias("absent")).aggregate("count(*), count(*) FILTER (absent)").fetchall()[0]
            )
            con.execute("DROP TABLE IF EXISTS listed")
            found.select(_value(columns.values())).distinct().create("listed")
    except InputError as error:
        raise _refused(each, error.what, error.where, expected=error.expected, got=error.got) from None
    if nulls:
        raise _refused(
            each,
            f"{nulls:,} of its {counted(rows, 'row', ('has', 'have'))} no value in {', '.join(columns.values())}, "
            "and can name nobody",
        )
    if not rows and not each.may_be_empty:
        raise _refused(each, "it has no rows", next_step=f"{SUPPLY}; if it may be empty: may_be_empty = true")
    (listed,) = con.sql("SELECT count(*) FROM listed").fetchall()[0]
    return int(listed)


def _check_types(
    each: Suppression, columns: Mapping[str, str], types: Mapping[str, str], kinds: Mapping[str, str]
) -> None:
    """Raises DeliveryRefused for numbers that would be compared with text: 7 could stand for 7 or 007."""
    for column, name in columns.items():
        if types[column] == "VARCHAR" and kinds[name] != "VARCHAR":
            raise _refused(
                each,
                f"{name} is no text, but {column} of the predictions is",
                expected="VARCHAR",
                got=kinds[name],
                next_step="write the list with text, as the keys are written",
            )


def _value(columns: Collection[str]) -> Expression:
    """Returns what is compared: a column or, of a key of several columns, a tuple."""
    values = [ColumnExpression(name) for name in columns]
    return (FunctionExpression("row", *values) if len(values) > 1 else values[0]).alias("__value")


def _check_spaces(con: Connection, each: Suppression) -> None:
    (found,) = con.sql(sql_files.load("publish/nearly_listed")).fetchall()[0]
    if found:
        raise _refused(
            each,
            f"{found:,} of its values have spaces around them, and would be in the export without these",
            next_step="remove the spaces from the list",
        )


def _refused(
    each: Suppression,
    what: str,
    where: object = None,
    *,
    expected: object = None,
    got: object = None,
    next_step: str = SUPPLY,
    kind: type[LakescoreError] = DeliveryRefused,
) -> LakescoreError:
    return kind(
        f"suppression list {each.name}: {what}",
        where=where or each.path,
        expected=expected,
        got=got,
        next_step=next_step,
    )
