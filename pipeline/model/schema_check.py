"""Checks whether a model fits a job and its input, before any row is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import ModelMismatch, SchemaMismatch, nearest
from pipeline.model.manifest import Manifest
from pipeline.tabular.spelling import Spelling

NUMBER = re.compile(r"BOOLEAN|U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(\d+, ?\d+\)")
"""Pattern of the DuckDB types that convert to float32; `DOUBLE[]`, for example, does not."""

TYPES = {
    "number": NUMBER,
    "category": re.compile(
        r"VARCHAR|ENUM\(.*\)|U?(TINYINT|SMALLINT|INTEGER|BIGINT)|(large_)?string(_view)?", re.DOTALL
    ),
    "integer": re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT)"),
    "timestamp": re.compile(r"DATE|TIMESTAMP.*|timestamp\[.*\]|date(32|64)\[.*\]"),
    "list": re.compile(
        r"(FLOAT|DOUBLE|U?(TINYINT|SMALLINT|INTEGER|BIGINT))\[\d*\]"
        r"|(large_|fixed_size_)?list<\w+: (float|double|u?int\d+)( not null)?>(\[\d+\])?"
    ),
}
TYPES |= {"hash": TYPES["category"], "sequence": TYPES["list"]}
"""Accepted column types by kind of input, in DuckDB's names, or in Arrow's for a table without a lake."""

SAID = {"number": "DOUBLE", "category": "VARCHAR", "timestamp": "TIMESTAMP", "list": "DOUBLE[]"}
SAID |= {"integer": "BIGINT", "hash": "VARCHAR", "sequence": "DOUBLE[]"}
"""Type to give to a column of text by kind of input."""


def check_fit(
    manifest: Manifest,
    features: Sequence[str] | None,
    columns: Mapping[str, str],
    where: object,
    spelling: Spelling = Spelling.command,
    *,
    job: object = None,
) -> None:
    """Checks a model against a job's `features` (None: the job uses the model's) and the input's columns.

    `columns` maps names to types; `where` names the input in error messages, `job` the file with the job's
    features, `spelling` how types are given. Raises ModelMismatch if the job's features differ from the model's,
    SchemaMismatch if a column is absent or has the wrong type.
    """
    check_features(manifest, features, job)
    needed = manifest.signature.features
    model = f"model {manifest.name} {manifest.version}"
    if missing := [name for name in needed if name not in columns]:
        raise SchemaMismatch(
            f"the input has no column {_listed(name + _hint(name, columns) for name in missing)}",
            where=where,
            expected=f"the features of {model}: {_listed(needed)}",
            got=f"columns {_listed(columns)}",
            next_step="write these columns, or rename them in the job's SELECT",
        )
    kinds = {name: how.kind for name, how in manifest.signature.inputs.items()}
    wrong = [name for name in needed if not TYPES[kinds.get(name, "number")].fullmatch(columns[name])]
    if wrong:
        others = [f"{name} {kind_name(kinds[name])}" for name in wrong if kinds.get(name, "number") != "number"]
        typed = spelling.type(wrong[0], SAID[kinds.get(wrong[0], "number")])
        raise SchemaMismatch(
            "a feature must be " + ("as the model's signature declares" if others else "a number or a boolean"),
            where=where,
            expected=_listed(others) if others else f"numbers for the features of {model}",
            got=_listed(f"{name} {columns[name]}" for name in wrong),
            next_step=f"write {'such values' if others else 'numbers'}, or cast the columns in the job's SELECT; "
            f"for imported text: {typed if spelling is Spelling.job else f'import it with {typed}'}",
        )


def check_features(manifest: Manifest, features: Sequence[str] | None, where: object) -> None:
    """Raises ModelMismatch if a job names features, in the file `where`, and they are not those of its model."""
    needed = manifest.signature.features
    if features is not None and set(features) != set(needed):
        raise _other_features(f"model {manifest.name} {manifest.version}", needed, features, where)


def check_nulls(manifest: Manifest, null_features: str, where: object) -> None:
    """Raises ModelMismatch if the job's policy passes NULL to the model as NaN, and a feature is passed as an int64."""
    signature = manifest.signature
    open_ones = [name for name in signature.int64 if getattr(signature.inputs[name], "null", None) is None]
    if null_features == "score" and open_ones:
        raise ModelMismatch(
            f"model {manifest.name} {manifest.version} takes int64, which cannot stand for the NULL of "
            + _listed(open_ones),
            where=where,
            expected='null_features = "quarantine" or "fail", or a `null` for these features in the model\'s signature',
            got='null_features = "score"',
            next_step="change the job's policy, or register the model with a replacement for NULL",
        )


def _other_features(model: str, needed: Sequence[str], features: Sequence[str], where: object) -> ModelMismatch:
    lacking = [name for name in needed if name not in features]
    surplus = [name + _hint(name, lacking) for name in features if name not in needed]
    parts = [
        f"{model} needs {_listed(lacking)}, which the job's features lack" if lacking else "",
        f"the job's features include {_listed(surplus)}, which {model} does not take" if surplus else "",
    ]
    return ModelMismatch(
        "; ".join(part for part in parts if part),
        where=where,
        expected=_listed(needed),
        got=_listed(features),
        next_step="correct `features` in job.toml, or omit it to use the model's own",
    )


def kind_name(kind: str) -> str:
    """Returns the kind of an input with its article: `a number`."""
    return f"an {kind}" if kind == "integer" else f"a {kind}"


def _hint(name: str, there: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` or an empty string; prefers a name that differs only in case."""
    candidates = list(there)
    same = [other for other in candidates if other.casefold() == name.casefold()]
    hint = f", did you mean {same[0]!r}?" if same else nearest(name, candidates)
    return f" ({hint.removeprefix(', ')})" if hint else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
