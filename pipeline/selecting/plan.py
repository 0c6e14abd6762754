"""The plan of a run: which files it reads, what is stored already, and how many rows and keys its input has."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression

from pipeline import startup
from pipeline.context import Context, timed
from pipeline.database import sql_files
from pipeline.database.connection import as_patterns, count_rows, translated_errors
from pipeline.errors import JobError, QualityStop, counted
from pipeline.lake.layout import Partition
from pipeline.periods import Grain
from pipeline.records import FileInfo, Plan, RunRecord, State, Term, new_run_id, now
from pipeline.selecting.imported import InputFiles
from pipeline.selecting.input import (
    check_input_by,
    connect_for_job,
    describe_files,
    empty_input,
    input_paths,
    stored_paths,
)
from pipeline.selecting.opening import INPUT, can_share, shared_input
from pipeline.selecting.views import candidates, create_candidates

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.model.manifest import Manifest


def plan(ctx: Context, ds: str, run_id: str | None = None, *, goes_on: bool = False) -> RunRecord:
    """Stage: plans a run (its input files, base, model and job) and stores its record.

    With `goes_on` the run continues in this process, and imports that take seconds begin now. Raises the errors of
    `make_plan` and `check_input`, and CommitConflict if a run with the id exists already.
    """
    manifest = ctx.manifest()
    _check_grain(ctx)
    with timed("plan") as clock:
        found = None
        with connect_for_job(ctx, len(manifest.signature.features)) as con:
            files = check_input_by(con, ctx, manifest, ds)
            if goes_on:
                found, stored = rows_by_footers(con, ctx, files.read, ds, manifest.version)
                startup.import_ahead(ctx, scores=found > stored)
        planned = make_plan(ctx, manifest, ds, files, found)
        clock.rows = planned.candidates.rows
    record = RunRecord(
        run_id=run_id or new_run_id(ctx.lake.records.newest_id(ctx.job.name, ds)),
        job=ctx.job.name,
        ds=ds,
        state=State.planned,
        model=manifest.ref,
        job_digest=ctx.job.digest,
        job_config=ctx.job.config(),
        plan=planned,
        started_at=now(),
        stages=(clock.report,),
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    ctx.lake.prepare()
    ctx.lake.records.create(record)
    return record


def _check_grain(ctx: Context) -> None:
    """Raises JobError if the newest run of the job was for another grain: `ds` would have two meanings in one job."""
    records, job = ctx.lake.records, ctx.job
    newest = next(
        (record for ds in reversed(records.days(job.name)) for record in records.iter_day(job.name, ds)), None
    )
    before = ((newest.job_config.get("schedule") or {}) if newest else {}).get("every", Grain.day)
    if newest is not None and before != job.grain:
        raise JobError(
            f"the predictions of {job.name} are those of {before}s, and every = {str(job.grain)!r}",
            where=ctx.lake.storage.where(f"predictions/job={job.name}"),
            expected=f"every = {before!r} in [schedule]",
            next_step=f"give the job of {job.grain}s another name: one folder cannot hold both",
        )


def rows_by_footers(
    con: Connection, ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, version: str
) -> tuple[int, int]:
    """Returns the numbers of rows of the input and of the stored predictions, from the footers of the files."""
    base = ctx.lake.parts(Partition(ctx.job.name, ds, version))
    found, stored = input_paths(ctx, files), stored_paths(ctx, base)
    with translated_errors(describe_files(files), [*found, *stored]):
        return count_rows(con, found), count_rows(con, stored) if stored else 0


def make_plan(
    ctx: Context,
    manifest: Manifest,
    ds: str,
    files: InputFiles,
    rows: int | None = None,
) -> Plan:
    """Returns the plan of a run of this day, from its checked input and what is stored. Writes nothing.

    `rows` is the number of rows in the files, if the run continues in this process. Raises InputEmpty if the input has
    no rows, QualityStop where a policy says `fail`.
    """
    job, lake = ctx.job, ctx.lake
    partition = Partition(job.name, ds, manifest.version)
    features = manifest.signature.features
    base = lake.parts(partition)
    other_models = of_other_models(ctx, base, manifest.digest)
    others = [
        file
        for version in lake.versions(job.name, ds)
        if version != partition.version
        for file in lake.parts(Partition(job.name, ds, version))
    ]
    where = describe_files(files.listed)
    columns = len(features) + len(job.input.carry)
    with (
        _candidates(ctx, files.read, ds, columns, rows) as con,
        translated_errors(where, input_paths(ctx, files.read)),
    ):
        found = con.execute(sql_files.load("selecting/uniqueness"))
        names = [column[0] for column in found.description or ()]
        counts = dict(zip(names, found.fetchall()[0], strict=True))
        repeated = counts["keys"] != counts["distinct_hashes"]
        if repeated and job.policy.conflicting_duplicates == "fail":
            of_run = candidates(con.view(INPUT), job.input.key, job.input.carry, features)
            of_run.create_view("candidates", replace=True)
            _refuse_conflicts(con, where)
    if counts["rows"] == 0:
        raise empty_input(ds, where)
    if (without := counts["rows"] - counts["keys"]) and job.policy.null_keys == "fail":
        raise QualityStop(
            f"{counted(without, 'row', ('has', 'have'))} no key",
            where=where,
            expected="a key in every row, or null_keys = 'quarantine' in job.toml",
        )
    return Plan(
        input=files.listed,
        imported=files.imported,
        base=base,
        other_versions=tuple(others),
        other_models=other_models,
        key=job.input.key,
        carry=job.input.carry,
        features=features,
        candidates=Term(rows=counts["rows"], hash_sum=counts["hash_sum"]),
        null_keys=without,
        repeated=repeated,
        duckdb=duckdb.__version__,
    )


@contextmanager
def _candidates(
    ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, columns: int, rows: int | None
) -> Iterator[Connection]:
    """Opens a connection with the views of input and candidates: that of the later stages if they share it."""
    if rows is None or ctx.job.select_text is not None or not can_share(ctx, columns):
        with connect_for_job(ctx, columns) as con:
            create_candidates(con, ctx, files, ds)
            yield con
        return
    with shared_input(ctx, files, ds, columns, rows) as opened:
        candidates(opened.rows, ctx.job.input.key, (), ()).create_view("candidates", replace=True)
        yield opened.con


def of_other_models(ctx: Context, base: Sequence[FileInfo], digest: str) -> tuple[FileInfo, ...]:
    """Returns the files whose predictions are not known to be those of the model with this digest.

    A version's name may have been given to another model; each part file says in its metadata which model it is of.
    """
    if not base:
        return ()
    paths = stored_paths(ctx, base)
    query, params = sql_files.load("selecting/models"), {"paths": as_patterns(paths)}
    with connect_for_job(ctx) as con, translated_errors(ctx.lake.storage, paths):
        found = dict(con.sql(query, params=params).fetchall())
    return tuple(file for file, path in zip(base, paths, strict=True) if found.get(path) != digest)


def _refuse_conflicts(con: Connection, where: str) -> None:
    conflicting = con.sql(sql_files.load("selecting/duplicates")).filter(ColumnExpression("conflicting"))
    if keys := conflicting.aggregate("count(*)").fetchall()[0][0]:
        raise QualityStop(
            f"{counted(keys, 'key', ('occurs', 'occur'))} in rows that differ",
            where=where,
            expected="one row per key, or conflicting_duplicates = 'quarantine' in job.toml",
        )
