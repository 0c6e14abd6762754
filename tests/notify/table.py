"""The table `[notify]` of a job."""

from __future__ import annotations

import json

from tests.workspace import Workspace

ALL = '["success", "warning", "failure", "stopped"]'


def told(workspace: Workspace, *ways: str, on: str = ALL, more: str = "", policy: str = "") -> None:
    """Adds a [notify] table to the job."""
    with (workspace.job(policy=policy) / "job.toml").open("a") as toml:
        toml.write(f"[notify]\non = {on}\napprise = {json.dumps(ways)}\n{more}\n")
