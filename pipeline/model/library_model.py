"""Models that another library runs, such as ONNX. The library is an extra, imported when such a file is read.

Their files are data. Whatever library runs them, it does so on the CPU, with one thread per call: each worker of a run
calls it from its own thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import ClassVar

from torch import nn

from pipeline.errors import ModelError, ModelRefused, UsageError
from pipeline.machine import out_of_memory
from pipeline.model.ending import NOTHING, Ending
from pipeline.model.feeding import Port, Ported
from pipeline.model.stated import Stated


class LibraryModel(Ported):
    """A model that is run on the CPU."""

    only_on_cpu = True
    library: ClassVar[str]
    """Package that runs it."""
    casts_to_half = False
    ending: Ending = NOTHING
    stated: Stated = Stated()

    def __init__(self, ports: tuple[Port, ...], outputs: int, where: object) -> None:
        super().__init__()
        self.ports, self.outputs, self.where = ports, outputs, where


def only_on_cpu(module: nn.Module) -> bool:
    """Returns whether a model is run by another library than torch."""
    return any(getattr(part, "only_on_cpu", False) for part in module.modules())


def versions(module: nn.Module) -> dict[str, str]:
    """Returns the version of each library that runs a model, by its package: that of torch, if no other does."""
    names = {part.library for part in module.modules() if isinstance(part, LibraryModel)} or {"torch"}
    return {name: str(import_module(name).__version__) for name in sorted(names)}


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Raises UsageError that says how to install the library of an extra, if the import inside fails."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"this model needs a library that is not installed: {error.name or error}",
            next_step=f"pip install 'lakescore[{name}]' and try again",
        ) from None


@contextmanager
def reading(what: str, where: object) -> Iterator[None]:
    """Raises ModelRefused for whatever a library raises while it reads a file, and MemoryError if memory runs out."""
    try:
        yield
    except (ModelError, UsageError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise ModelRefused(
            f"the file is not a valid {what}",
            where=where,
            got=_first_line(error),
            next_step="save it again with the library that trained it",
        ) from error


@contextmanager
def scoring(where: object) -> Iterator[None]:
    """Raises ModelError for whatever a library raises while it scores rows, and MemoryError if memory runs out."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise ModelError(
            "the model cannot score these rows",
            where=where,
            got=_first_line(error),
            next_step="check the features and their order; to register it, --golden or --baseline with rows that it "
            "knows also helps",
        ) from error


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text.strip()}"[:300]
