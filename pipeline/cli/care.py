"""rollback, verify, clean, erase: maintenance of a lake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.asking import on_a_terminal, open_lake
from pipeline.cli.next_steps import completed
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, open_context, settings
from pipeline.cli.output import bytes_text, console, emit_json, table
from pipeline.cli.publish import raise_error, show
from pipeline.errors import InputMissing, QualityStop, UsageError, counted
from pipeline.job.loading import find_job

if TYPE_CHECKING:
    from pipeline.care.erasures import Erasure
    from pipeline.job.config import Job
    from pipeline.lake.layout import Lake

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


def add_to(app: typer.Typer) -> None:
    app.command()(rollback)
    app.command()(verify)
    app.command()(clean)
    app.command()(erase)


def rollback(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Run id, as shown by `lakescore runs`.", show_default=False)
    ] = None,
    ds: Annotated[
        str | None, typer.Option("--date", help="Instead of RUN: the complete run of that day that finished last.")
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", help="With --date its job; else, its folder, if it is not found by its name.")
    ] = None,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Roll back a run: unpublish its predictions. The next run scores those rows again.

    What it has sent to the job's targets is withdrawn, and what is current then is sent again.
    """
    from pipeline.care.rollback import rollback as take_back
    from pipeline.flow.publishing import after_rollback

    if (run is None) == (ds is None):
        raise UsageError(
            "which run?" if run is None else "RUN cannot be combined with --date",
            expected="a run id, or the day of the run",
            next_step="lakescore runs",
        )
    machine = settings(lake)
    found = open_lake(machine)
    if run is None:
        run = _complete_run(found, find_job(job, machine), ds)
    done = take_back(found, run)
    if not json:
        said = f"{run} of {done.record.ds} is rolled back: {completed(done.what)}"
        console().print(said, markup=False)
    published = after_rollback(found, done.record, lambda: open_context(job or done.record.job, lake))
    if not json and published.deliveries:
        show(published.deliveries)
    raise_error(published)
    if json:
        deliveries = [each.model_dump(mode="json") for each in published.deliveries]
        result = {"run_id": run, "ds": done.record.ds, "state": done.record.state, "files": done.files}
        emit_json({**result, "deliveries": deliveries})


def _complete_run(lake: Lake, job: Job, ds: str | None) -> str:
    """Returns the id of the complete run of a day that finished last. Raises InputMissing if there is none."""
    day = job.period(ds or "").ds
    record = lake.records.last_complete(job.name, day)
    if record is None:
        raise InputMissing(
            f"no run of {job.name} is complete on {day}",
            where=lake.storage.where(f"runs/job={job.name}"),
            next_step=f"lakescore runs --job {job.name}",
        )
    return record.run_id


def verify(
    lake: LakeOption = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Fix what can be fixed without removing rows.")] = False,
    json: JsonOption = False,
) -> None:
    """Read all stored data and compare it with the run records. Exit code 3 if there are problems."""
    from pipeline.care.verify import verify as look
    from pipeline.model.remote import open_registry

    machine = settings(lake)
    found = list(look(open_lake(machine), open_registry(machine.models)))
    for finding in found if repair else []:
        if finding.repair is not None:
            finding.repair()
    left = [finding for finding in found if not repair or finding.repair is None]
    if json:
        emit_json([{**finding.as_dict(), "repaired": finding not in left} for finding in found])
    elif found:
        rows = [(each.kind, each.what, each.where, "" if each in left else "repaired") for each in found]
        table(("", "what", "where", ""), rows)
    else:
        console().print("no problems found")
    if left and json:
        raise typer.Exit(QualityStop.exit_code)  # the list names the problems; a second document would break parsing
    if left:
        raise QualityStop(
            f"{counted(len(left), 'problem')} found",
            where=machine.lake,
            next_step="lakescore verify --repair fixes some of them" if any(each.repair for each in left) else None,
        )


def clean(
    days: Annotated[
        float, typer.Option("--older-than", help="Minimum age in days of a run's newest file.", min=0)
    ] = 7.0,
    keep_days: Annotated[
        int | None, typer.Option(help="Also remove the job's predictions of days more than this many days ago.", min=1)
    ] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    dry_run: DryRun = False,
    json: JsonOption = False,
) -> None:
    """Remove staging and rejected work of old runs."""
    from pipeline.care.clean import clean as clear
    from pipeline.care.expire import expire
    from pipeline.job.loading import find_job

    machine = settings(lake)
    found = open_lake(machine)
    cleared = clear(found, older_than_days=days, dry_run=dry_run)
    expired = []
    if keep_days is not None:
        expired = expire(found, find_job(job, machine), keep_days=keep_days, dry_run=dry_run)
    if json:
        emit_json({"cleared": [vars(each) for each in cleared], "expired": expired, "dry_run": dry_run})
        return
    verb = "would be removed" if dry_run else "removed"
    size = bytes_text(sum(each.bytes for each in cleared))
    work, days_removed = counted(len(cleared), "item"), counted(len(expired), "old day")
    console().print(f"{work} of old work, {size}, and {days_removed} {verb}")


def erase(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="The key; join the values of several columns by commas.", show_default=False
        ),
    ],
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; only on a terminal is there a question.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove every trace of a key from predictions, quarantine, labels and staging. Exit code 1 if there is none."""
    from pipeline.care.erase import erase as remove
    from pipeline.publish.stage import Published, after_erasure

    ctx = open_context(job, lake)
    if on_a_terminal() and not (yes or dry_run):
        there = remove(ctx.lake, ctx.job, key, dry_run=True)
        if there.files:
            question = (
                f"Remove {counted(there.rows, 'row')} from {counted(len(there.files), 'file')}? This cannot be undone"
            )
            typer.confirm(question, abort=True, err=True)
    done = remove(ctx.lake, ctx.job, key, dry_run=dry_run)
    published = Published() if dry_run else after_erasure(ctx)
    if json and published.error is None:
        emit_json({**done.as_dict(), "dry_run": dry_run})
    elif not json:
        _show_erased(done, dry_run=dry_run)
        if published.deliveries:
            show(published.deliveries)
    raise_error(published)
    if not done.files:
        raise typer.Exit(1)


def _show_erased(done: Erasure, *, dry_run: bool) -> None:
    if not done.files:
        console(stderr=True).print("there is no trace of this key in the lake; nothing was changed")
        return
    verb = "would be removed" if dry_run else "removed"
    console().print(
        f"{counted(done.rows, 'row')} {verb} from {counted(len(done.files), 'file')}; the input is not changed: "
        "remove the key there too, or the next run scores it again"
    )
