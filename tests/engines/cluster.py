"""A standalone Spark cluster on loopback addresses: a master, two workers of one core each, and a Connect server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HOST, WORKERS = "127.0.0.1", ("127.0.0.2", "127.0.0.3")
START_S = 300
"""Seconds that a part of the cluster may take to start: on a busy machine, Java alone takes a minute."""
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Options of Java: its best compiler takes more time than it saves in a minute."""
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.executor.memory": "1g",
    "spark.executor.memoryOverhead": "1g",
    "spark.executor.extraJavaOptions": QUICK,
    "spark.driver.extraJavaOptions": QUICK,
    "spark.driver.host": HOST,
    "spark.driver.bindAddress": HOST,
    "spark.log.level": "ERROR",
}


@dataclass(frozen=True)
class Cluster:
    master: str
    folder: Path
    workers: tuple[subprocess.Popen[bytes], ...]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process finds the cluster, and its executors find Lakescore."""
        return {
            "LAKESCORE_SPARK": self.master,
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_LOCAL_IP": HOST,
            "PYSPARK_PYTHON": sys.executable,
        }

    @contextmanager
    def found(self) -> Iterator[None]:
        """Lets this process, and those that it starts, find the cluster."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield


@contextmanager
def standalone(folder: Path) -> Iterator[Cluster]:
    (folder / "conf").mkdir(parents=True)
    archive(folder / "lakescore.zip")
    (folder / "conf-server").mkdir()
    lines = [f"{name} {value}" for name, value in SETTINGS.items()]
    (folder / "conf-server" / "spark-defaults.conf").write_text("\n".join(lines))
    lines.append(f"spark.submit.pyFiles {folder / 'lakescore.zip'}")
    (folder / "conf" / "spark-defaults.conf").write_text("\n".join(lines))
    port, ui = free_port(), free_port()
    with ExitStack() as ended:
        arguments = ("--host", HOST, "--port", port, "--webui-port", ui)
        ended.enter_context(_process(folder, "master", HOST, "org.apache.spark.deploy.master.Master", *arguments))
        until(lambda: _alive(ui) is not None, "the master answers")
        url, workers = f"spark://{HOST}:{port}", []
        for host in WORKERS:
            resources = ("--host", host, "--cores", 1, "--memory", "2g", "--webui-port", 0)
            place = ("--work-dir", folder / "work" / host, url)
            worker = _process(folder, host, host, "org.apache.spark.deploy.worker.Worker", *resources, *place)
            workers.append(ended.enter_context(worker))
        until(lambda: _alive(ui) == len(WORKERS), "the workers are registered")
        yield Cluster(url, folder, tuple(workers))


def archive(path: Path) -> Path:
    """Writes the package as its wheel holds it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for folder, inside in ((ROOT / "pipeline", "pipeline"), (ROOT / "sql", "pipeline/sql")):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    made.write(file, f"{inside}/{file.relative_to(folder).as_posix()}")
    return path


@contextmanager
def connect_server(cluster: Cluster, folder: Path) -> Iterator[str]:
    """Starts a Connect server on a cluster; yields its address."""
    port = free_port()
    server = "org.apache.spark.sql.connect.service.SparkConnectServer"
    settings = [
        "--conf",
        f"spark.connect.grpc.binding.port={port}",
        "--conf",
        f"spark.connect.grpc.binding.address={HOST}",
    ]
    arguments = ("--master", cluster.master, *settings, "--class", server, "spark-internal")
    with _process(
        folder,
        "connect",
        HOST,
        "org.apache.spark.deploy.SparkSubmit",
        *arguments,
        SPARK_CONF_DIR=str(cluster.folder / "conf-server"),
    ):
        until(lambda: _listens(port), "the Connect server listens")
        yield f"sc://{HOST}:{port}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def until(condition: object, what: str) -> None:
    began = time.monotonic()
    while not condition():  # type: ignore[operator]
        if time.monotonic() - began > START_S:
            raise TimeoutError(what)
        time.sleep(0.2)


@contextmanager
def _process(folder: Path, name: str, host: str, *command: object, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    import pyspark

    home = Path(pyspark.__file__).parent
    environment = {
        **os.environ,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": host,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_DAEMON_JAVA_OPTS": QUICK,
        **more,
    }
    with (folder / f"{name}.log").open("wb") as log:
        words = [str(home / "bin" / "spark-class"), *map(str, command)]
        started = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def _alive(ui: int) -> int | None:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{ui}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return None


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5):
            return True
    except OSError:
        return False
