"""Two days with predictions of several runs and versions."""

from __future__ import annotations

from tests.workspace import Workspace, changed, table

DAY2 = "2026-01-02"


def add_history(workspace: Workspace) -> None:
    """Scores `u3`, scores it again changed, by a second version, and on a second day; there, `u5` is in quarantine."""
    rows = table(40)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {3: 9.0}))
    workspace.run()
    workspace.model("v2", seed=4)
    workspace.run()
    workspace.day(changed(rows, "a", {5: None}), DAY2)
    workspace.run(DAY2)
