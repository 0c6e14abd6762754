"""Where it is recorded that a delivery was announced to people; `notify/announcing.py` does it, and writes it down."""

from __future__ import annotations

import hashlib
import json

from pipeline.lake.layout import Lake
from pipeline.publish.delivery import Delivery, DeliveryState


def announcement_key(delivery: Delivery) -> str:
    """Returns the key of the record of an announcement.

    One per delivery and content; what an export follows counts, too: after a rollback, people are told that the files
    of an earlier run are current again.
    """
    what = f"{delivery.digest} {delivery.details.get('follows')} {delivery.state is DeliveryState.withdrawn}"
    folder = f"notifications/job={delivery.job}/ds={delivery.ds}"
    return f"{folder}/{delivery.run_id}.{delivery.target}.{hashlib.sha256(what.encode()).hexdigest()[:12]}.json"


def told_through(lake: Lake, delivery: Delivery) -> set[str]:
    """Returns the channels through which people were told about a delivery, whatever has become of it since."""
    content = lake.storage.read(announcement_key(delivery.with_(state=DeliveryState.delivered)))
    return {each["channel"] for each in json.loads(content or "{}").get("deliveries", []) if each["error"] is None}
