"""Every error that Lakescore raises on purpose.

    LakescoreError                what, where, expected, got, next step
    ├── UsageError                a wrong word on the command line               exit 2
    │   ├── JobError              a job folder that is absent or not valid
    │   └── QueryRefused          a query that is not one SELECT, or takes too long
    ├── InputError                the input cannot be scored as it is
    │   ├── InputMissing          nothing there for that day
    │   ├── SchemaMismatch        columns absent, or of the wrong type
    │   └── UnreadableFile        a damaged file among the input
    ├── ModelError                a model that is absent, unsafe, or does not fit
    │   ├── ModelNotFound
    │   ├── ModelRefused          not a checkpoint we load, or carries code
    │   └── ModelMismatch         does not fit the job, or is not the file registered
    ├── QualityStop               stopped because of bad data                    exit 3
    ├── LedgerImbalance           a run does not add up; nothing was committed
    ├── LakeDamaged               what is stored contradicts itself
    ├── StorageError              the disk or the object store refused
    └── TransientError            the same call may succeed later       exit 75
        ├── InputChanged          the input changed since the plan
        ├── CommitConflict        other runs keep taking our place
        ├── CommitUnknown         no telling whether a write happened
        └── StorageUnavailable    full disk, time-out, too many requests

Transient errors are worth a retry; the others need a person.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LakescoreError(Exception):
    """What went wrong, and what to do about it.

    The fields are kept as attributes so that programs (``--json``, Airflow) need not parse the text.
    """

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        details = {
            "where": self.where,
            "expected": self.expected,
            "got": self.got,
            "next": self.next_step,
        }
        lines = [f"  {name:<9} {text}" for name, text in details.items() if text is not None]
        return "\n".join([self.what, *lines])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields: an exception's default is to call the class with its text alone."""
        return (_rebuild, (type(self), self.__dict__.copy()))

    def as_dict(self) -> dict[str, object]:
        parts = {name: getattr(self, name) for name in ("what", "where", "expected", "got", "next_step")}
        return {"error": type(self).__name__, "transient": self.transient, **parts}


def _rebuild(kind: type[LakescoreError], fields: dict[str, object]) -> LakescoreError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    error.args = (str(error),)
    return error


class UsageError(LakescoreError):
    exit_code = 2


class JobError(UsageError):
    pass


class QueryRefused(UsageError):
    pass


class InputError(LakescoreError):
    pass


class InputMissing(InputError):
    pass


class SchemaMismatch(InputError):
    pass


class UnreadableFile(InputError):
    pass


class ModelError(LakescoreError):
    pass


class ModelNotFound(ModelError):
    pass


class ModelRefused(ModelError):
    pass


class ModelMismatch(ModelError):
    pass


class QualityStop(LakescoreError):
    """`checks` holds what the validation found, if that is what stopped the run: `records.CheckResult`s."""

    exit_code = 3
    checks: tuple[Any, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "checks": [check.model_dump(mode="json") for check in self.checks]}


class LedgerImbalance(LakescoreError):
    pass


class LakeDamaged(LakescoreError):
    pass


class StorageError(LakescoreError):
    pass


class TransientError(LakescoreError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: cron, systemd and Airflow can tell it from a failure for good
    transient = True


class InputChanged(TransientError):
    pass


class CommitConflict(TransientError):
    pass


class CommitUnknown(TransientError):
    pass


class StorageUnavailable(TransientError):
    pass


def nearest(name: str, valid: list[str]) -> str:
    """Returns ``", did you mean 'x'?"`` or an empty string. A name that differs only in case is the nearest."""
    import difflib

    same = [other for other in valid if other.casefold() == name.casefold()]
    close = same or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
