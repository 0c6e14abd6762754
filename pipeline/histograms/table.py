"""Converts profiles between counts and Parquet; docs/drift.md documents the columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.histograms.counting import WHOLE, Counting, Counts, Spec
from pipeline.storage.parquet import from_bytes, to_bytes

if TYPE_CHECKING:
    from pipeline.histograms.counting import Kind

Place = tuple[str, str]
"""A carried column and one of its values, or WHOLE."""
Profile = dict[Place, dict[str, Counts]]

PROFILE = pa.schema(
    [
        ("run_id", pa.string()),
        ("profiled_at", pa.timestamp("us", "UTC")),
        ("slice_column", pa.string()),
        ("slice", pa.string()),
        ("kind", pa.string()),
        ("column_name", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        ("nans", pa.int64()),
        ("infinite", pa.int64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("mean", pa.float64()),
        ("deviation", pa.float64()),
        ("m2", pa.float64()),
        ("quantiles", pa.list_(pa.float64())),
        ("edges", pa.list_(pa.float64())),
        ("labels", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int64())),
    ]
)


def to_table(counting: Counting, run_id: str, at: datetime, most_slices: int) -> pa.Table:
    """Returns a table of schema PROFILE: the whole, then the `most_slices` largest slices of each slice column."""
    chosen: list[Place] = [WHOLE]
    for column in counting.slices:
        places = [place for place in counting.counts if place[0] == column]
        chosen += sorted(places, key=lambda place: (-_rows(counting.counts[place]), place))[:most_slices]
    rows = [_row(place, counts, run_id, at) for place in chosen for counts in counting.counts[place].values()]
    return pa.Table.from_pylist(rows, PROFILE)


def from_table(table: pa.Table) -> Profile:
    found: Profile = {}
    for row in table.to_pylist():
        place = (row["slice_column"], row["slice"])
        found.setdefault(place, {})[row["column_name"]] = _counts(row)
    return found


def specs(profile: Mapping[str, Counts]) -> tuple[Spec, ...]:
    return tuple(counts.spec for counts in profile.values())


def specs_to_bytes(found: Iterable[Spec]) -> bytes:
    """Returns the content of an edges file: the columns of PROFILE that define what is counted."""
    columns = [{"kind": s.kind, "column_name": s.name, "edges": s.edges, "labels": s.labels} for s in found]
    return to_bytes(pa.Table.from_pylist(columns, _schema("kind", "column_name", "edges", "labels")))


def specs_from_bytes(content: bytes) -> tuple[Spec, ...]:
    return tuple(_spec(row) for row in from_bytes(content).to_pylist())


def _schema(*names: str) -> pa.Schema:
    return pa.schema([PROFILE.field(name) for name in names])


def _spec(row: Mapping[str, Any]) -> Spec:
    kind: Kind = row["kind"]
    return Spec(kind, row["column_name"], tuple(row["edges"] or ()), tuple(row["labels"] or ()))


def _rows(columns: Mapping[str, Counts]) -> int:
    return max((counts.rows for counts in columns.values()), default=0)


def _row(place: Place, counts: Counts, run_id: str, at: datetime) -> dict[str, Any]:
    spec, known = counts.spec, counts.finite > 0
    return {
        "run_id": run_id,
        "profiled_at": at,
        "slice_column": place[0],
        "slice": place[1],
        "kind": spec.kind,
        "column_name": spec.name,
        "rows": counts.rows,
        "nulls": counts.nulls,
        "nans": counts.nans,
        "infinite": counts.infinite,
        "low": counts.low if known else None,
        "high": counts.high if known else None,
        "mean": counts.mean if known else None,
        "deviation": counts.deviation,
        "m2": counts.m2 if known else None,
        "quantiles": counts.quantiles(),
        "edges": spec.edges,
        "labels": spec.labels,
        "counts": counts.bins.tolist(),
    }


def _counts(row: Mapping[str, Any]) -> Counts:
    counts = Counts(_spec(row), row["rows"], row["nulls"], row["nans"], row["infinite"])
    counts.bins = np.array(row["counts"], np.int64)
    if row["mean"] is not None:
        counts.finite = row["rows"] - row["nulls"] - row["nans"] - row["infinite"]
        counts.low, counts.high, counts.mean, counts.m2 = row["low"], row["high"], row["mean"], row["m2"]
    return counts
