"""Rows that people bring for a model: files to score, training rows, golden examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Signature
    from pipeline.tabular.sources import Files


def read_rows(con: Connection, files: Files, signature: Signature, outputs: Collection[str] = ()) -> Relation:
    """Returns all columns of the files. In files of text, features get the type that the signature needs.

    A category keeps the text that is written, so that `1.50` is not 1.5; what is hashed becomes an integer only where
    that is the same text. A feature, or one of the `outputs`, that must be a number and is not one in every row is
    refused: SchemaMismatch with line and value.
    """
    from pipeline.tabular import sources

    return sources.read(con, files, **columns_read(signature, outputs))


def columns_read(signature: Signature, outputs: Collection[str] = ()) -> dict[str, list[str]]:
    """Returns the columns whose types the signature decides, as arguments of `sources.read`."""
    kinds = dict.fromkeys((*signature.features, *outputs), "number")
    kinds |= {name: how.kind for name, how in signature.inputs.items()}
    return {
        "key": [name for name, kind in kinds.items() if kind == "hash"],
        "text": [name for name, kind in kinds.items() if kind == "category"],
        "numbers": [name for name, kind in kinds.items() if kind == "number"],
    }


def table(examples: pa.Table | Files | None, signature: Signature) -> pa.Table | None:
    """Returns all rows of the examples, in their order, with the outputs of the training code if they have them."""
    from pipeline.tabular.sources import Files, translated_read_errors

    if not isinstance(examples, Files):
        return examples
    import pyarrow as pa

    from pipeline.database.connection import connect
    from pipeline.model.outputs import output_schema

    numbers = [field.name for field in output_schema(signature) if pa.types.is_floating(field.type)]
    with connect() as con, translated_read_errors(examples):
        con.execute("SET preserve_insertion_order = true")
        return read_rows(con, examples, signature, numbers).to_arrow_table()
