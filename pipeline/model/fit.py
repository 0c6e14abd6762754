"""Whether a model fits the rows it is to score: looked at before any row is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import ModelMismatch, SchemaMismatch, nearest
from pipeline.model.manifest import Manifest

NUMBER = re.compile(r"BOOLEAN|U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(\d+, ?\d+\)")
"""The DuckDB types that become float32: not, for example, `DOUBLE[]`."""

TYPES = {
    "number": NUMBER,
    "category": re.compile(
        r"VARCHAR|ENUM\(.*\)|U?(TINYINT|SMALLINT|INTEGER|BIGINT)|(large_)?string(_view)?", re.DOTALL
    ),
    "timestamp": re.compile(r"DATE|TIMESTAMP.*|timestamp\[.*\]|date(32|64)\[.*\]"),
    "list": re.compile(
        r"(FLOAT|DOUBLE|U?(TINYINT|SMALLINT|INTEGER|BIGINT))\[\d*\]"
        r"|(large_|fixed_size_)?list<\w+: (float|double|u?int\d+)( not null)?>(\[\d+\])?"
    ),
}
"""The types of each kind of input, as DuckDB names them or, of a table without a lake, Arrow."""


def check_fit(manifest: Manifest, features: Sequence[str] | None, columns: Mapping[str, str], where: object) -> None:
    """Checks a model against a job's `features` (None: the job takes the model's) and the input's columns.

    `columns` maps names to DuckDB types; `where` is the input, for the message. Raises ModelMismatch if the job names
    other features than the model takes, SchemaMismatch if a column is absent or of another kind.
    """
    needed = manifest.signature.features
    model = f"model {manifest.name} {manifest.version}"
    if features is not None and set(features) != set(needed):
        raise _other_features(model, needed, features)
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
        others = [f"{name} a {kinds[name]}" for name in wrong if kinds.get(name, "number") != "number"]
        raise SchemaMismatch(
            "a feature must be " + ("what the model's signature says" if others else "a number or a boolean"),
            where=where,
            expected=_listed(others) if others else f"numbers for the features of {model}",
            got=_listed(f"{name} {columns[name]}" for name in wrong),
            next_step="write " + ("such values" if others else "numbers") + ", or cast the columns in the job's SELECT",
        )


def _other_features(model: str, needed: Sequence[str], features: Sequence[str]) -> ModelMismatch:
    lacking = [name + _hint(name, features) for name in needed if name not in features]
    surplus = [name for name in features if name not in needed]
    parts = [
        f"{model} needs {_listed(lacking)}, which the job's features lack" if lacking else "",
        f"the job's features have {_listed(surplus)}, which {model} does not take" if surplus else "",
    ]
    return ModelMismatch(
        "; ".join(part for part in parts if part),
        expected=_listed(needed),
        got=_listed(features),
        next_step="correct `features` in job.toml, or leave it out: the model's own are taken then",
    )


def _hint(name: str, there: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` or an empty string; a name that differs only in case comes first."""
    candidates = list(there)
    same = [other for other in candidates if other.casefold() == name.casefold()]
    hint = f", did you mean {same[0]!r}?" if same else nearest(name, candidates)
    return f" ({hint.removeprefix(', ')})" if hint else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
