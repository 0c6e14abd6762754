"""`model.json`: valid content, and what the digest covers."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.errors import ModelError
from pipeline.model import manifest
from pipeline.model.manifest import Manifest, Signature
from pipeline.model.outputs import output_schema
from pipeline.records import now

OPTIONAL = ("format", "recorded_version", "golden", "baseline", "metrics", "provenance")
SIGNATURE = Signature(features=("a", "b"), classes=(0, 1))


def valid() -> dict[str, Any]:
    entry = Manifest(
        name="churn",
        version="v1",
        digest=manifest.digest({"model.pt": b"weights"}, SIGNATURE),
        file="model.pt",
        kind="checkpoint",
        signature=SIGNATURE,
        registered_at=now(),
    )
    document: dict[str, Any] = json.loads(entry.to_json())
    return document


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"features": ("a", "b", "a"), "classes": (0, 1)}, "'a' appears twice"),
        ({"features": ("a",), "classes": ("x", "x")}, "'x' appears twice"),
        ({"features": ("a",), "classes": (0, "1")}, "all text or all integers"),
        ({"features": (), "classes": (0, 1)}, "at least 1 item"),
        ({"features": ("",), "classes": (0, 1)}, "at least 1 character"),
        ({"features": ("a",), "classes": (0,)}, "at least 2 items"),
        ({"features": ("a",), "classes": (0, 2**63)}, "less than"),
        ({"features": ("a",), "classes": (False, True)}, "valid integer"),
    ],
)
def test_invalid_signature_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Signature(**fields)


@pytest.mark.parametrize(("classes", "kind"), [((7, 9, -1), pa.int64()), (("x", "y", "z"), pa.string())])
def test_output_schema_has_a_column_for_each_class(classes: tuple[Any, ...], kind: pa.DataType) -> None:
    schema = output_schema(Signature(features=("a",), classes=classes))
    assert schema.names == ["prediction", "prediction_proba", "prob_class_0", "prob_class_1", "prob_class_2"]
    assert schema.types == [kind, *[pa.float32()] * 4]


def test_parse_of_what_was_written_gives_the_same() -> None:
    entry = Manifest.model_validate(valid())
    assert manifest.parse(entry.to_json(), "here") == entry
    assert (entry.ref.name, entry.ref.version, entry.ref.digest) == ("churn", "v1", entry.digest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "x"}, ["unknown key `nmae`", "'name'"]),
        ({"signature": {"classes": [0, 1]}}, ["`signature.features` is missing"]),
        ({"signature": {"feature": ["a"]}}, ["unknown key `signature.feature`", "'features'"]),
        ({"signature": {"features": ["a"], "classes": [0, 1], "clases": []}}, ["`signature.clases`", "'classes'"]),
        ({"signature": {"features": "a", "classes": [0, 1]}}, ["`signature.features`", "'a'"]),
        ({"digest": "ABC"}, ["`digest`", "'ABC'"]),
        ({"file": "../model.pt"}, ["`file`", "'../model.pt'"]),
        ({"kind": "pickle"}, ["`kind`", "checkpoint", "'pickle'"]),
        ({"registered_at": "yesterday"}, ["`registered_at`", "'yesterday'"]),
        ({"format": 2, "future": True}, ["`format`", "use the version of Lakescore that wrote it"]),
    ],
    ids=[
        "key",
        "inner missing",
        "inner misspelt",
        "inner key",
        "inner type",
        "digest",
        "file",
        "kind",
        "time",
        "format",
    ],
)
def test_parse_wrong_field_names_file_and_field(change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        manifest.parse(json.dumps({**valid(), **change}).encode(), "models/churn/v1/model.json")
    text = str(caught.value)
    assert caught.value.where == "models/churn/v1/model.json"
    assert [words for words in said if words not in text] == []


@pytest.mark.parametrize("name", [name for name in Manifest.model_fields if name not in OPTIONAL])
def test_parse_missing_field_is_named(name: str) -> None:
    document = valid()
    del document[name]
    with pytest.raises(ModelError, match=f"`{name}` is missing"):
        manifest.parse(json.dumps(document).encode(), "here")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[]", b'"text"'])
def test_parse_content_that_is_not_an_object_names_the_file(content: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        manifest.parse(content, "models/churn/v1/model.json")
    assert "model.json" in caught.value.what
    assert caught.value.where == "models/churn/v1/model.json"


def test_digest_differs_for_any_change() -> None:
    files = {"model.pt": b"weights", "more": b"x"}
    variants = [
        (files, SIGNATURE),
        ({**files, "model.pt": b"weightz"}, SIGNATURE),
        ({"model.pt": b"weights", "other": b"x"}, SIGNATURE),
        ({"model.pt": b"weightsmore", "": b"x"}, SIGNATURE),
        ({"model.pt": b"weights"}, SIGNATURE),
        (files, Signature(features=("b", "a"), classes=(0, 1))),
        (files, Signature(features=("a", "b"), classes=("0", "1"))),
        (files, Signature(features=("a", "b"), classes=(1, 0))),
    ]
    assert len({manifest.digest(content, signature) for content, signature in variants}) == len(variants)


def test_digest_never_changes() -> None:
    """A registered model stays valid under later versions of Lakescore, so this value may never change."""
    assert (
        manifest.digest({"b": b"2", "a": b"1"}, Signature(features=("ä",), classes=("no", "yes")))
        == manifest.digest({"a": b"1", "b": b"2"}, Signature(features=("ä",), classes=("no", "yes")))
        == "45d161028cabf170e97bd7aa505e868fc1bb15a1fa416c299b7995ae0d656657"
    )
