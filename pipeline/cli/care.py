"""rollback, verify, clean, erase."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import bytes_text, console, emit_json, table
from pipeline.errors import QualityStop

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def add_to(app: typer.Typer) -> None:
    app.command()(rollback)
    app.command()(verify)
    app.command()(clean)
    app.command()(erase)


def rollback(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, from `status`.", show_default=False)],
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Takes back what a run published; the next run scores those rows again."""
    from pipeline.care.rollback import rollback as take_back
    from pipeline.lake import Lake

    done = take_back(Lake.open(settings(lake).lake), run)
    if json:
        emit_json({"run_id": run, "ds": done.record.ds, "state": done.record.state, "files": done.files})
    else:
        files = f"{len(done.files)} files emptied" if done.files else "nothing was left to take back"
        console().print(f"{run} of {done.record.ds} is rolled back, {files}; `lakescore run` scores those rows again")


def verify(
    lake: LakeOption = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without taking rows away.")] = False,
    json: JsonOption = False,
) -> None:
    """Reads all that is stored, and compares it with what the runs have recorded. Exit code 3 if anything is amiss."""
    from pipeline.care.verify import verify as look
    from pipeline.lake import Lake
    from pipeline.model.remote import open_registry

    machine = settings(lake)
    found = list(look(Lake.open(machine.lake), open_registry(machine.models)))
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
        console().print("nothing is amiss")
    if left:
        raise QualityStop(
            f"{len(left)} findings",
            where=machine.lake,
            next_step="lakescore verify --repair mends some" if any(each.repair for each in left) else None,
        )


def clean(
    days: Annotated[float, typer.Option("--older-than", help="Days since a run's newest file.", min=0)] = 7.0,
    keep_days: Annotated[
        int | None, typer.Option(help="Remove the job's predictions of days older than this, too.", min=1)
    ] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    dry_run: DryRun = False,
    json: JsonOption = False,
) -> None:
    """Removes staging and rejected work that nobody takes up any more."""
    from pipeline.care.clean import clean as clear
    from pipeline.care.clean import expire
    from pipeline.job import find_job
    from pipeline.lake import Lake

    machine = settings(lake)
    found = Lake.open(machine.lake)
    cleared = clear(found, older_than_days=days, dry_run=dry_run)
    expired = []
    if keep_days is not None:
        expired = expire(found, find_job(job, machine).name, keep_days=keep_days, dry_run=dry_run)
    if json:
        emit_json({"cleared": [vars(each) for each in cleared], "expired": expired, "dry_run": dry_run})
        return
    verb = "would be removed" if dry_run else "removed"
    size = bytes_text(sum(each.bytes for each in cleared))
    console().print(f"{len(cleared)} folders and files of old work, {size}, and {len(expired)} old days {verb}")


def erase(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The key; several columns with commas.", show_default=False)
    ],
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Removes every trace of a key from predictions, quarantine and staging."""
    from pipeline.care.erase import erase as remove
    from pipeline.job import find_job
    from pipeline.lake import Lake

    machine = settings(lake)
    done = remove(Lake.open(machine.lake), find_job(job, machine), key)
    if json:
        emit_json(done.as_dict())
    else:
        console().print(
            f"{done.rows} rows removed from {len(done.files)} files; the input is yours: remove the key there, too, "
            "or the next run scores it again"
        )
