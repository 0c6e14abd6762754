"""Ceph's object gateway for tests: a monitor, an OSD in memory and radosgw of our own, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3 import SECRET, S3Server

PROGRAMS = ("monmaptool", "ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
"""Debian and Ubuntu: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd."""
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
osd pool default size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 2147483648
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.admin]
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


def is_there() -> bool:
    return all(map(shutil.which, PROGRAMS))


@contextmanager
def serve(folder: Path) -> Iterator[S3Server]:
    """Runs a cluster below a folder, whose path must be short, and its gateway, with an empty bucket."""
    mon, port = _free_port(), _free_port()
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(CONFIG.format(fsid=fsid, mon=mon, port=port, folder=folder))
    for name in ("mon", "osd"):
        (folder / name).mkdir()
    processes: list[subprocess.Popen[bytes]] = []

    def call(*words: str) -> None:
        subprocess.run([words[0], "-c", str(config), *words[1:]], check=True, capture_output=True, timeout=120)

    def start(*words: str) -> None:
        with (folder / "output").open("ab") as output:
            processes.append(subprocess.Popen([words[0], "-c", config, "-f", *words[1:]], stdout=output, stderr=output))

    monmap = str(folder / "monmap")
    subprocess.run(
        ["monmaptool", "--create", "--addv", "a", f"v2:127.0.0.1:{mon}", "--fsid", fsid, monmap],
        check=True,
        capture_output=True,
    )
    try:
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        start("ceph-mon", "-i", "a")
        call("ceph", "osd", "new", osd)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        user = ("--uid", "test", "--display-name", "test", "--access-key", "testing", "--secret-key", SECRET)
        call("radosgw-admin", "user", "create", *user)
        start("radosgw", "-n", "client.admin")
        found = S3Server(f"http://127.0.0.1:{port}")
        _wait_for(found.url)
        found.make_bucket()
        yield found
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"nothing answers at {url}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
