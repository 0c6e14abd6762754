"""Errors of MLflow and its servers as our own, without the credentials that addresses may contain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import LakescoreError, ModelNotFound, StorageUnavailable, UsageError

USERINFO = re.compile(r"(?<!wasb:)(?<!wasbs:)(?<!abfs:)(?<!abfss:)//[^/\s]*@")
"""User and password of an address. Azure's addresses have the container in this place."""
QUERY = re.compile(r"\?[^\s#)]*")
"""Query of an address: a signed one has the signature there."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
OUR_RETRIES = "2"
"""Number of retries unless MLflow's setting says more; with MLflow's default, an absent server takes four minutes."""
TEMPORARY = (408, 429, 500, 502, 503, 504)
"""Codes of HTTP."""
UNAUTHORIZED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")


def redacted(text: str) -> str:
    """Returns a text without the credentials of addresses in it, and without those of MLflow's settings."""
    text = QUERY.sub("?...", USERINFO.sub("//", text))
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "...")
    return text


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns errors of MLflow, its stores and the network into ModelNotFound, or StorageUnavailable for a retry.

    The causes are not kept: their texts have the address of the server, with its credentials.
    """
    try:
        with _few_retries():
            yield
    except LakescoreError:
        raise
    except ImportError as error:
        raise UsageError(
            f"the model is stored where MLflow needs a package that is not installed: {error.name or error}",
            where=url,
            next_step="install it and try again",
        ) from None
    except Exception as error:  # noqa: BLE001 -- the client of an object store may raise anything
        raise _translated(error, url) from None


def _translated(error: Exception, url: str) -> LakescoreError:
    got = redacted(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))[:300]
    if _is_temporary(error):
        return StorageUnavailable(
            "MLflow cannot be reached",
            where=url,
            got=got,
            next_step="try again; if it lasts, check MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI, and that the server "
            "runs",
        )
    if getattr(error, "error_code", None) in UNAUTHORIZED:
        next_step = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account that "
            "may read the model"
        )
    else:
        next_step = "set MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI to its server, and check its name, version or path"
    return ModelNotFound("MLflow does not provide the model", where=url, got=got, next_step=next_step)


def _is_temporary(error: BaseException | None) -> bool:
    """Returns whether the same call may succeed later, by an error or one that it was raised from."""
    import requests

    while error is not None:
        if isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.RetryError):
            return True
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return error.response.status_code in TEMPORARY
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _few_retries() -> Iterator[None]:
    if RETRIES in os.environ:
        yield
        return
    os.environ[RETRIES] = OUR_RETRIES
    try:
        yield
    finally:
        del os.environ[RETRIES]
