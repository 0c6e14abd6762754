"""MLflow's tracking server as a team runs it: it asks for a password, that of ASKED_PASSWORD. For `flask --app`.

`mlflow server` serves the same application; its own command needs packages that mlflow-skinny does not bring. A model
called `busy` is one for which the server has no time.
"""

from __future__ import annotations

import os

from flask import Response, request
from mlflow.server import app


@app.before_request
def admit() -> Response | None:
    """Answers a request itself if it has no password, or is about the model `busy`."""
    given = request.authorization
    if given is None or given.password != os.environ["ASKED_PASSWORD"]:
        return Response("Unauthorized", 401, {"WWW-Authenticate": "Basic"})
    return Response("too many requests", 503) if request.args.get("name") == "busy" else None
