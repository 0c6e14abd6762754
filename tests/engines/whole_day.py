"""The day that each engine scores, and its job."""

from __future__ import annotations

from tests.workspace import Workspace

ROWS = 200_000
ENGINE = '\n[engine]\nname = "{name}"\nmin_rows = 1\nbuckets = 8\n'


def job(workspace: Workspace, name: str) -> Workspace:
    """Lets the job use an engine, for days of any size."""
    path = workspace.settings.jobs / "toy" / "job.toml"
    text = path.read_text()
    path.unlink()  # it may be a link to that of other tests
    path.write_text(text + ENGINE.format(name=name))
    return workspace
