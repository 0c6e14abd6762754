"""models: show model versions, and choose the version that an alias names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import compare
from pipeline.cli.manifests import described, outputs_of, registry_of_settings, scales, structure_of, versions_of
from pipeline.cli.next_steps import completed
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.register import register
from pipeline.errors import UsageError, counted
from pipeline.model.schema_check import kind_name

if TYPE_CHECKING:
    from pipeline.model.registry import Registry

models = typer.Typer(help="Register models, and choose which one is in production.", no_args_is_help=True)
models.command()(register)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(models, name="models")


@models.command("list")
def list_(json: JsonOption = False) -> None:
    """List every version of every model."""
    registry = registry_of_settings()
    found = [described(registry, manifest) for manifest in registry.manifests()]
    if json:
        emit_json(found)
    elif not found:
        there = registry.is_there()
        where = f"{registry.root}{'' if there else ', a folder that does not exist: correct LAKESCORE_MODELS'}"
        said = f"no model is registered in {where}; see lakescore models register --help"
        console(stderr=True).print(said, markup=False)
    else:
        columns = ["model", "version", "aliases", "features", "classes", "registered", "digest"]
        table(columns, (_row(entry) for entry in found), below=("classes", "digest"))


@models.command()
def show(
    name: NameArgument,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="A version or alias.", show_default="production, else the newest"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a version: its signature and origin. Fails if its files differ from those registered."""
    registry = registry_of_settings()
    manifest = registry.resolve(name, version or _default_version(registry, name))
    registry.content(manifest)
    entry = described(registry, manifest)
    if json:
        emit_json(entry)
        return
    signature = manifest.signature
    facts = {
        "model": name,
        "version": manifest.version,
        "aliases": ", ".join(entry["aliases"]) or None,
        "task": signature.task,
        "features": ", ".join(signature.features),
        "inputs": ", ".join(f"{name} {kind_name(how.kind)}" for name, how in signature.inputs.items()) or None,
        "scaled": scales(signature) or None,
        "tensors": "; ".join(f"{name}: {', '.join(names)}" for name, names in signature.tensors.items()) or None,
        "classes": ", ".join(map(str, signature.classes)) or None,
        "outputs": outputs_of(manifest),
        "output stored": signature.output,
        "structure": structure_of(manifest) or signature.architecture,
        "kind": manifest.kind,
        "version inside": manifest.recorded_version or "unknown",
        "registered": f"{manifest.registered_at:%Y-%m-%d %H:%M:%S %Z}",
        "by": manifest.provenance.by if manifest.provenance else None,
        "from": manifest.provenance.source if manifest.provenance else None,
        "versions": versions_of(manifest) or None,
        "metrics": ", ".join(f"{metric} {value:g}" for metric, value in manifest.metrics.items()) or None,
        "digest": manifest.digest,
        "as registered": True,
        "folder": str(registry.root / name / manifest.version),
    }
    table(["", ""], facts.items())


@models.command()
def promote(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version, or another alias.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias to move.")] = "production",
    max_flips: Annotated[
        str | None,
        typer.Option("--max-flips", metavar="SHARE", help="Refuse if more decisions flip than this share, such as 2%."),
    ] = None,
    ds: compare.DayOption = None,
    sample: compare.SampleOption = None,
    target: compare.ClassOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    json: JsonOption = False,
) -> None:
    """Move an alias to a version. Jobs that use the alias score with that version from their next run on.

    With --max-flips, both versions score the job's rows first. If too many decisions flip, it exits with code 3 and
    changes nothing.
    """
    registry = registry_of_settings()
    found = None
    if max_flips is not None:
        found = compare.gate(name, version, alias, max_flips, job, lake, ds, sample, target)
    elif ds is not None or sample is not None or target is not None:
        raise UsageError("--date, --sample and --class need --max-flips", next_step="add, for example, --max-flips 2%")
    before = registry.aliases(name).get(alias)
    registry.promote(name, version, alias)
    after = registry.aliases(name)[alias]
    if json:
        flips = found.flip_share if found else None
        emit_json({"name": name, "alias": alias, "version": after, "before": before, "flips": flips})
    else:
        if found is not None:
            said = f"{found.flip_share:.2%} of {counted(found.rows, 'decision')} flip"
            console().print(f"{said}{compare.left_out(found)}", markup=False)
        console().print(f"{alias} of {name} is {after}" + (f", was {before}" if before else ""), markup=False)
        if before is not None and before != after:
            anew = completed("lakescore backfill --stale")
            console().print(
                f"days scored by {before} are stale now for jobs that use {alias}; {anew} scores them anew",
                markup=False,
            )


def _default_version(registry: Registry, name: str) -> str:
    from pipeline.model.registry import PRODUCTION

    versions = registry.manifests(name)
    return PRODUCTION if PRODUCTION in registry.aliases(name) or not versions else versions[-1].version


def _row(entry: dict[str, Any]) -> list[Any]:
    return [
        entry["name"],
        entry["version"],
        ", ".join(entry["aliases"]) or None,
        len(entry["signature"]["features"]),
        ", ".join(map(str, entry["signature"]["classes"])) or entry["signature"]["task"],
        entry["registered_at"][:10],
        entry["digest"][:12],
    ]
