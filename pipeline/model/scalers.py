"""Where the scales of a signature come from when a model is registered, if the signature's file does not say them.

A file of weights may carry the values that its training code scaled the inputs with. The weights do not apply them, and
whether the columns of the lake are scaled already is not in the file: so registration asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import ModelRefused, UsageError, nearest

FITS = ("mean_std", "min_max")
CHOICES = (*FITS, "checkpoint", "none")
"""What can be asked for by a word: fitted to the training data, the values in the model's file, or nothing."""
MEANINGS = {
    "mean": {"mean", "means", "mu", "center"},
    "std": {"std", "stds", "stdev", "sigma", "scale", "scales"},
    "min": {"min", "mins", "minimum"},
    "max": {"max", "maxs", "maximum"},
    "var": {"var", "variance"},
}
"""The words in a name that say what a value of a scaler is."""
MOST_LEVELS = 5
MOST_VALUES = 1_000_000
"""How deep, and how large, the values of a scaler may be; the file may hold anything, a dictionary in itself too."""
SCALERS = {"scaler", "scaling", "normalizer", "normalization", "standardizer"}
TARGETS = {"y", "target", "targets", "label", "labels", "output", "outputs"}
Values = tuple[float, ...] | Mapping[str, float]
"""The values of all inputs in their order, or by name."""
Scaler = Mapping[str, Values]
"""Values that may be those of a scaler, by their place in the file: `scaler.mean`, for example."""


def in_document(document: Mapping[Any, Any], inputs: int) -> dict[str, Values]:
    """Returns the values beside the weights that look like those of a scaler, by their names and their number.

    They are empty where it is known only that they belong to one: to that of the outputs, or with another number.
    """
    found: dict[str, Values] = {}
    for place, values in _leaves(document, ""):
        words = _words(place)
        if words & TARGETS and _meaning(place):
            found[place] = ()
        elif _looks_like_one(place, values, inputs):
            found[place] = values
        elif words & SCALERS and _meaning(place):
            found[place] = ()
    return found


def in_text(metadata: Mapping[str, str], inputs: int) -> dict[str, Values]:
    """Like `in_document`, of metadata as text, in which a list is JSON."""
    parsed = {}
    for name, text in metadata.items():
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            continue
    return in_document(parsed, inputs)


def declared(
    entries: Mapping[str, Any],
    scaling: str | Mapping[str, Any] | None,
    scaler: Scaler,
    features: Sequence[str] | None,
    where: object,
) -> dict[str, Any]:
    """Returns the entries of a signature with the scales that were asked for.

    `scaling` is one of CHOICES, or the content of a file: steps by feature, or `mean` and `std`, or `min` and `max`,
    each a list with a value per feature. Raises ModelRefused if it is None, and `scaler`, found in the model's file, is
    not empty, unless the entries have a scale; UsageError for what does not fit the features.
    """
    inputs = dict(entries.get("inputs") or {})
    has_scale = [name for name, how in inputs.items() if isinstance(how, Mapping) and how.get("scale")]
    if scaling is None or scaling == "none":
        if scaling is None and scaler and not has_scale:
            raise _asked(scaler, where)
        return dict(entries)
    if has_scale:
        raise UsageError(
            f"both the signature and --scaling say how features are scaled: {', '.join(has_scale)}",
            where=where,
            next_step="leave one of them out",
        )
    names = tuple(features or ())
    steps = _steps(scaling, scaler, names, inputs, where)
    for name, step in steps.items():
        how = inputs.get(name) or {"kind": "number"}
        if name not in names:
            raise UsageError(
                f"--scaling names {name!r}, which is not a feature{nearest(name, list(names))}",
                where=where,
                expected=", ".join(names),
            )
        if _kind(how) not in ("number", "list"):
            raise UsageError(f"{name} is a {_kind(how)}, which has no scale", where=where, next_step="leave it out")
        inputs[name] = {**how, "scale": step}
    return {**entries, "inputs": inputs}


def _steps(
    scaling: str | Mapping[str, Any], scaler: Scaler, names: Sequence[str], inputs: Mapping[str, Any], where: object
) -> dict[str, Any]:
    """Returns the steps by feature."""
    if scaling == "checkpoint":
        return _by_feature(_values(scaler, names, where), names, where)
    if isinstance(scaling, str):
        return {name: [{"fit": scaling}] for name in names if _kind(inputs.get(name)) in ("number", "list")}
    if scaling and all(map(_is_list_of_numbers, scaling.values())):
        return _by_feature(scaling, names, where)
    return dict(scaling)


def _by_feature(values: Mapping[str, Any], names: Sequence[str], where: object) -> dict[str, Any]:
    """Returns a step for each feature, from a list of numbers for each of the two values of a step."""
    for first, second in (("mean", "std"), ("min", "max")):
        if set(values) == {first, second} and {len(values[first]), len(values[second])} == {len(names)}:
            pairs = zip(names, values[first], values[second], strict=True)
            return {name: [{first: one, second: other}] for name, one, other in pairs}
    raise UsageError(
        "the values of the scaler do not fit the features",
        where=where,
        expected=f"`mean` and `std`, or `min` and `max`, with {len(names)} values each, for {', '.join(names)}",
        got=", ".join(f"{name} with {len(value)}" for name, value in values.items()),
        next_step='give the steps by feature: {"age": [{"mean": 38.5, "std": 12.1}]}',
    )


def _values(scaler: Scaler, names: Sequence[str], where: object) -> dict[str, tuple[float, ...]]:
    """Returns `mean` and `std`, or `min` and `max`, in the order of the names.

    Raises UsageError if they are not in the file, or not alone, or are those of other names.
    """
    found: dict[str, tuple[float, ...]] = {}
    for place, values in scaler.items():
        meaning = _meaning(place)
        if isinstance(values, Mapping) and set(values) != set(names):
            raise _unclear(scaler, where)
        if meaning is None or meaning in found or not values:
            raise _unclear(scaler, where)
        found[meaning] = tuple(values[name] for name in names) if isinstance(values, Mapping) else values
    if set(found) == {"mean", "var"}:
        found = {"mean": found["mean"], "std": tuple(each**0.5 for each in found["var"])}
    if set(found) == {"mean", "std", "var"}:
        del found["var"]
    if set(found) not in ({"mean", "std"}, {"min", "max"}):
        raise _unclear(scaler, where)
    return found


def _unclear(scaler: Scaler, where: object) -> UsageError:
    return UsageError(
        "it is not clear how the values in the model's file scale its inputs",
        where=where,
        expected="a mean and a standard deviation, or a minimum and a maximum",
        got=", ".join(scaler) or "no values of a scaler",
        next_step="pass them with --scaling FILE, as steps by feature",
    )


def _asked(scaler: Scaler, where: object) -> ModelRefused:
    return ModelRefused(
        "the model's file carries values of a scaler, which its weights do not apply",
        where=where,
        got=", ".join(
            f"`{place}`" + (f" of {len(values)} numbers" if values else "") for place, values in scaler.items()
        ),
        next_step="pass --scaling checkpoint to scale the features with them, --scaling FILE to scale otherwise, "
        "or --scaling none if the columns are scaled already; what scales the outputs has to be part of the model: "
        "export it with torch.export",
    )


def _leaves(value: Any, place: str, level: int = 0) -> Iterator[tuple[str, Values]]:
    """Yields the lists of numbers in a document, and the numbers by name, with their places; but no weights."""
    if level > MOST_LEVELS or (hasattr(value, "numel") and value.numel() > MOST_VALUES):
        return
    if isinstance(value, Mapping):
        if value and place and all(map(_is_number, value.values())):
            yield place, {str(name): float(each) for name, each in value.items()}
        for name, inner in value.items():
            if not str(name).endswith("state_dict"):
                yield from _leaves(inner, f"{place}.{name}" if place else str(name), level + 1)
        return
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, tuple | list) and len(listed) == 1 and isinstance(listed[0], tuple | list):
        listed = listed[0]
    if _is_list_of_numbers(listed) or (_is_number(listed) and _words(place) & TARGETS):
        yield place, tuple(map(float, listed if isinstance(listed, tuple | list) else [listed]))


def _looks_like_one(place: str, values: Values, inputs: int) -> bool:
    if isinstance(values, Mapping):
        own = set(map(_meaning, values))
        if {"mean", "std"} <= own or {"min", "max"} <= own:  # of one feature
            return True
    return _meaning(place) is not None and len(values) == inputs


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_number, value))


def _meaning(place: str) -> str | None:
    """Returns what a value is by the words of its name: `featureMeans` and `mean_` are a mean."""
    words = _words(place.rpartition(".")[2])
    return next((meaning for meaning, those in MEANINGS.items() if words & those), None)


def _words(place: str) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", place).lower()))


def _kind(how: Any) -> str:
    return str(how.get("kind", "number")) if isinstance(how, Mapping) else "number"
