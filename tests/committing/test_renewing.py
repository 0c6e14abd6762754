"""Making an earlier run current again, when its model's alias moves back; more in `tests/selecting/`."""

from __future__ import annotations

from pipeline.flow import single_stage
from tests.workspace import DAY, Workspace


def test_renewed_run_holds_what_the_earlier_one_holds_with_its_profile(workspace: Workspace) -> None:
    workspace.with_pages()
    workspace.day(200)
    first = workspace.complete()
    workspace.model("v2", seed=3)
    ahead = "20991231T235959999Z-00000000"  # of a machine with a fast clock
    single_stage.run_task(workspace.context(), "commit", DAY, ahead)
    workspace.context().registry.promote("toy", "v1", "production")
    record = workspace.complete()
    assert record.run_id > ahead
    assert (record.renews, record.committed, record.parts) == (first.run_id, (), first.parts)
    assert record.ledger is not None
    assert record.ledger.balanced
    assert (record.ledger.unchanged.rows, record.ledger.scored.rows) == (200, 0)
    query = "SELECT DISTINCT run_id FROM profiles WHERE model_version = 'v1'"
    assert workspace.ask(query) == [(record.run_id,)]
