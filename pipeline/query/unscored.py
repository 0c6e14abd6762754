"""The view `unscored` over a job's input, or one view per source of its SELECT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from duckdb import StarExpression

from pipeline.database.aligning import aligned, union, with_day, with_ds, with_period
from pipeline.database.connection import check_names, empty_relation
from pipeline.database.folders import select_list
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.lake.patterns import Pattern
from pipeline.query.periods_of_paths import period_in
from pipeline.query.stored_columns import FILE
from pipeline.query.views import NAMES, Maker
from pipeline.selecting.imported import Copies
from pipeline.selecting.source import check_equal, folders_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation


def create(con: Connection, lake: Lake, job: Job, *, lasting: bool = False, folder: Path | None = None) -> list[str]:
    """Creates the view of a job's input, or one view per source of its SELECT; returns the files.

    Each has the column `ds`, the period, in place of any that the files have; NULL for files that periods share. Text
    of which the lake has no current copy is imported into `folder`; lasting views of text show the copies that runs
    have made. A source that has the name of another view is left out. Raises UnreadableFile or SchemaMismatch for input
    that a run refuses, too.
    """
    maker = Maker(con, lake, lasting)
    for name, pattern in job.patterns.items():
        if name in NAMES:
            continue
        if name in job.input.text:
            _create_of_text(maker, job, name, pattern, None if lasting else folder)
        else:
            _create(maker, job, name, pattern)
    return maker.files


def _create_of_text(maker: Maker, job: Job, name: str, pattern: Pattern, folder: Path | None) -> None:
    pieces: list[Relation] = []
    if folder is not None:
        of = _copies(maker.lake, job, name, pattern, folder)
        pieces = [with_period(piece, FILE, of) for piece in (maker.select(list(of), "*") if of else ())]
    elif maker.lake.matching(copies := f"imported/job={job.name}/ds=*/{name}.parquet"):
        before = len(maker.absolute([copies.partition("ds=*")[0]])[0])
        pieces = [with_day(piece, FILE, before) for piece in maker.select(maker.absolute([copies]), "*")]
    if not pieces:
        empty_relation(maker.con, {"ds": "VARCHAR"}).create_view(name)
        return
    rows = union(aligned(pieces, {"ds": "VARCHAR"}))
    rows.select(StarExpression(exclude=[FILE])).create_view(name)


def _copies(lake: Lake, job: Job, name: str, pattern: Pattern, folder: Path) -> dict[str, str | None]:
    """Returns the period of each current copy of a source of text, by path."""
    copies, found = Copies(lake, job, folder=folder), {}
    periods: Sequence[str | None] = lake.input_days([pattern]) if pattern.dated else [None]
    for ds in periods:
        files = lake.matching(pattern.files()) if ds is None else lake.input_files({name: pattern}, ds)[name]
        if any(file.size for file in files):
            (copy,) = copies.of({name: files}, ds).read[name]
            found[lake.storage.where(copy.path)] = ds
    return found


def _create(maker: Maker, job: Job, name: str, pattern: Pattern) -> None:
    files = maker.lake.matching(pattern.files())
    if not files:
        empty_relation(maker.con, {"ds": "VARCHAR"}).create_view(name)
        return
    paths = maker.absolute(file.path for file in files)
    read = paths
    if maker.lasting:
        folder, slash, last = pattern.files().rpartition("/")
        visible = "[!._]" if last.startswith("*") else ""
        read = maker.absolute([f"{folder}{slash}{visible}{last}"])
    pieces = maker.select(read, "*")
    for piece in pieces:
        check_names(maker.con, piece.columns, paths)
    held = {column for piece in pieces for column in piece.columns}
    names, compared = folders_of(job, name, files, held)
    for column in set(compared) - {"ds"}:
        for piece in pieces:
            check_equal(piece, column, FILE, pattern.text)
    if names:
        pieces = maker.select(read, lambda columns: select_list(columns, names, FILE, keep_file=True))
    if maker.lasting and pattern.dated and "{ds}" not in pattern.text:
        pieces = [with_ds(piece, period_in(pattern, FILE)) for piece in pieces]
    elif pattern.dated and "{ds}" not in pattern.text:
        of = {path: pattern.ds_of(path) for path in paths}
        pieces = [with_period(piece, FILE, of) for piece in pieces]
    elif "ds={ds}/" not in pattern.text:
        fixed = re.split(r"[*?\[]|{ds}", maker.absolute([pattern.text])[0])[0]
        pieces = [with_day(piece, FILE, len(fixed)) for piece in pieces]
    rows = union(aligned(pieces, {"ds": "VARCHAR"}))
    rows.select(StarExpression(exclude=[FILE])).create_view(name)
