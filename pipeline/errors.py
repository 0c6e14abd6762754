"""All errors that Lakescore raises deliberately.

    LakescoreError                what, where, expected, got, next step
    ├── UsageError                invalid arguments or options                   exit 2
    │   ├── JobError              a job folder that is missing or invalid
    │   └── QueryRefused          a query that is not a single SELECT, or takes too long
    ├── InputError                the input cannot be scored as it is
    │   ├── InputMissing          no input for the day
    │   │   └── InputEmpty        there are files, but no rows in them
    │   ├── SchemaMismatch        missing columns, or columns of the wrong type
    │   └── UnreadableFile        a damaged input file
    ├── ModelError                a model that is missing, unsafe, or does not fit
    │   ├── ModelNotFound
    │   ├── ModelRefused          not a supported checkpoint, or contains code
    │   └── ModelMismatch         does not fit the job, or differs from the registered file
    ├── QualityStop               stopped because of bad data                    exit 3
    ├── LedgerImbalance           the ledger of a run does not balance; nothing was committed
    ├── DeliveryRefused           a target that does not take the predictions, or would lose them
    ├── LakeDamaged               stored data is inconsistent
    ├── StorageError              the disk or the object store refused an operation
    ├── OutOfMemory               DuckDB needs more memory than its limit
    └── TransientError            the same call may succeed later                exit 75
        ├── InputChanged          the input changed since the plan, or while it was read
        ├── IncompleteFile        an input file that ends too early: still being written, or cut off
        ├── CommitConflict        other runs keep committing first
        ├── CommitUnknown         unknown whether a write took effect
        ├── DeliveryFailed        a target of predictions that cannot be reached, or is full
        ├── RunEnded              the run was rolled back or ended by another process while active
        ├── StorageUnavailable    full disk, timeout, too many requests
        └── WorkerLost            processes or executors that score for a run have died

Only transient errors are worth retrying; the others need a person to fix the cause.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LakescoreError(Exception):
    """Base class: what went wrong, and what to do about it.

    The fields are attributes so that programs (``--json``, Airflow) need not parse the text.
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
        """Pickles the fields: by default, an exception is rebuilt by calling its class with the text alone."""
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
    """What was asked cannot be meant: an unknown name, a contradiction, a value out of range."""

    exit_code = 2


class JobError(UsageError):
    pass


class QueryRefused(UsageError):
    """A query that is not allowed, cannot be run, or exceeds a limit."""


class InputError(LakescoreError):
    pass


class InputMissing(InputError):
    pass


class InputEmpty(InputMissing):
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
    """`checks` holds the validation results (`records.CheckResult`) if validation stopped the run; else it is empty."""

    exit_code = 3
    checks: tuple[Any, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "checks": [check.model_dump(mode="json") for check in self.checks]}


class LedgerImbalance(LakescoreError):
    pass


class DeliveryRefused(LakescoreError):
    pass


class LakeDamaged(LakescoreError):
    pass


class StorageError(LakescoreError):
    pass


class OutOfMemory(LakescoreError):
    pass


class TransientError(LakescoreError):
    """An error that the same call may not have later: a retry may succeed."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: lets cron, systemd and Airflow tell it from a permanent failure
    transient = True


class InputChanged(TransientError):
    pass


class IncompleteFile(TransientError):
    pass


class CommitConflict(TransientError):
    pass


class CommitUnknown(TransientError):
    pass


class DeliveryFailed(TransientError):
    pass


class RunEnded(TransientError):
    pass


class StorageUnavailable(TransientError):
    pass


class WorkerLost(TransientError):
    pass


def nearest(name: str, valid: list[str]) -> str:
    """Returns ``", did you mean 'x'?"`` for the closest valid name, or an empty string; ignores case first."""
    import difflib

    same = [other for other in valid if other.casefold() == name.casefold()]
    close = same or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def counted(count: int, noun: str, verbs: tuple[str, str] | None = None) -> str:
    """Returns a number with its noun, such as `1 row` and `2,000 rows`, and with the verb that fits it."""
    text = f"{count:,} {noun if count == 1 else f'{noun}s'}"
    return text if verbs is None else f"{text} {verbs[count != 1]}"
