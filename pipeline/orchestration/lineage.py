"""Tells OpenLineage what a task has delivered, and from which run and model, if Airflow's provider for it is in use."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from pipeline.publish.delivery import Delivery, DeliveryState

NAMESPACE = "lakescore"


def emit(deliveries: Iterable[Delivery], ti: Any) -> None:
    """Emits one event with an output dataset per delivery, whose version is the digest; its errors are only logged."""
    sent = [each for each in deliveries if each.state is DeliveryState.delivered]
    if not sent or find_spec("airflow.providers.openlineage") is None:
        return
    from airflow.providers.openlineage.api import emit_dataset_lineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    inputs = {each.job: InputDataset(NAMESPACE, f"{each.job}/predictions") for each in sent}
    outputs = [OutputDataset(*dataset_of(each), facets=_facets(each)) for each in sent]
    emit_dataset_lineage(inputs=[*inputs.values()], outputs=[*outputs], task_instance=ti)


def dataset_of(delivery: Delivery) -> tuple[str, str]:
    """Returns namespace and name of a delivery's dataset, by the naming rules of OpenLineage.

    That is a place which stays the same over the days: the folder of the export, the table of flags, the keys in Redis.
    """
    place = delivery.place.partition(", ")[0]
    if delivery.kind != "redis":
        above = 2 if delivery.kind == "export" else 3  # the period and the run; the period, the version and the file
        place = place.rsplit("/", above)[0]
    url = urlsplit(place)
    if not url.scheme:
        return "file", place
    name = url.path.strip("/") if delivery.kind != "redis" else f"{delivery.job}:{delivery.target}"
    return f"{url.scheme}://{url.netloc}", name


def _facets(delivery: Delivery) -> dict[str, Any]:
    import attr
    from openlineage.client.facet_v2 import DatasetFacet, dataset_version_dataset

    @attr.define
    class LakescoreDelivery(DatasetFacet):
        """The run, model and period of a delivery."""

        period: str
        run_id: str
        target: str
        rows: int
        model_name: str
        model_version: str
        model_digest: str

    about = LakescoreDelivery(
        period=delivery.ds,
        run_id=delivery.run_id,
        target=delivery.target,
        rows=delivery.rows,
        model_name=delivery.model.name,
        model_version=delivery.model.version,
        model_digest=delivery.model.digest,
    )
    version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=delivery.digest)
    return {"version": version, "lakescore_delivery": about}
