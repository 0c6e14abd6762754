"""Makes the results of an earlier run current again, by a new run record alone: no input and no prediction is read.

The views show the model version that was complete last. When an alias moves back to an older version, the predictions
of a day may all be there; then only a record is missing that says so now.
"""

from __future__ import annotations

import os
import socket

from pipeline.committing.stage import mark
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.profiles.stage import take_over_profile
from pipeline.records import ModelRef, RunRecord, State, Statistics, Term, new_run_id, now


def renew(ctx: Context, model: ModelRef, earlier: RunRecord) -> RunRecord:
    """Writes a complete run that scores nothing and holds what `earlier` holds; returns its record.

    `earlier` is a complete run of the same model whose results still hold (`selecting/up_to_date.py`). If that changes
    meanwhile, the new run ends as `overtaken` or `superseded`.
    """
    assert earlier.ledger is not None
    records, before = ctx.lake.records, earlier.ledger
    ledger = before.model_copy(update={"scored": Term(), "unchanged": before.scored + before.unchanged})
    with timed("renew") as clock:
        started = now()
        record = earlier.with_(
            run_id=new_run_id(records.newest_id(earlier.job, earlier.ds)),
            model=model,
            job_config=ctx.job.config(),
            renews=earlier.run_id,
            started_at=started,
            committed=(),
            marked=Term(),
            dispositions={name: ledger.counts()[name] for name in ("scored", "unchanged", "quarantined")},
            ledger=ledger,
            statistics=Statistics(),
            stages=(),
            peak_memory_bytes=peak_memory_bytes(),
            host=socket.gethostname(),
            pid=os.getpid(),
            warnings=(),
        )
        take_over_profile(ctx, record, earlier)
    record = record.with_(state=State.complete, stages=(clock.report,), finished_at=now())
    records.create(record)
    return mark(ctx, record)
