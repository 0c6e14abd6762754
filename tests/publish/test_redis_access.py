"""TLS and users on a real server, and the reader of docs/publish.md."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import DeliveryRefused, LakescoreError, UsageError
from pipeline.publish.redis_reader import look_up
from pipeline.publish.stage import deliver_all
from pipeline.records import now
from tests.publish.conftest import Publisher
from tests.redis_server import RedisServer, free_port, serve

DAY = "2026-01-01"
DOCS = (Path(__file__).parent.parent.parent / "docs" / "publish.md").read_text("utf-8")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Writes a certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now() - dt.timedelta(days=1))
    made = made.not_valid_after(now() + dt.timedelta(days=1)).add_extension(address, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    paths = folder / "server.crt", folder / "server.key"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


def commands(name: str) -> list[str]:
    """Returns the commands that the document says a user needs."""
    text = DOCS.split("**Users**")[1].split("A reader needs")[0 if name == "writer" else 1]
    return [word for word in re.findall(r"\+[a-z|]+", text.split("SCAN")[0]) if word != "+cluster"]


@pytest.fixture(scope="module")
def secured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with TLS alone, and the users `writer` and `reader` with the rights that the document names."""
    folder = tmp_path_factory.mktemp("tls")
    crt, key = certificate(folder)
    users = [
        "user default off",
        f"user writer on >let-me-write ~churn:t0:* {' '.join(commands('writer'))}",
        f"user reader on >let-me-read ~churn:t0:* {' '.join(commands('reader'))}",
    ]
    (folder / "users.acl").write_text("\n".join(users) + "\n")
    port = free_port()
    options = ("--port", "0", "--tls-port", str(port), "--tls-cert-file", str(crt), "--tls-key-file", str(key))
    more = ("--tls-ca-cert-file", str(crt), "--tls-auth-clients", "no", "--aclfile", str(folder / "users.acl"))
    url = f"rediss://writer:let-me-write@127.0.0.1:{port}/0?ssl_ca_certs={crt}"
    with serve(*options, *more, port=port, url=url) as server:
        yield server


@pytest.fixture
def secured(secured_server: RedisServer) -> RedisServer:
    """That server, on which no other test's lake has published."""
    with secured_server.client() as client:
        client.unlink("churn:t0:current")
    return secured_server


def sent(publisher: Publisher) -> LakescoreError | None:
    return deliver_all(publisher.job('kind = "redis"'), publisher.day(DAY)).error


def test_user_with_the_documented_rights_publishes_over_tls(
    publisher: Publisher, secured: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKESCORE_REDIS_URL", secured.url)
    assert sent(publisher) is None
    second = publisher.day("2026-01-02", rows=3)  # fewer keys, so that SCAN is needed
    (delivery,) = deliver_all(publisher.job('kind = "redis"'), second).deliveries
    assert delivery.place == f"rediss://127.0.0.1:{secured.port}/0, churn:t0:current"
    monkeypatch.setenv("LAKESCORE_REDIS_URL", secured.url.replace("writer:let-me-write", "reader:let-me-read"))
    pointer, values = look_up(publisher.job('kind = "redis"').job, "u1")
    assert (pointer["rows"], values["prediction"]) == ("3", 1)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("let-me-write", "wrong", "refuses the user, the password or a command"),
        ("writer:let-me-write", "reader:let-me-read", "refuses the user, the password or a command"),
        ("?ssl_ca_certs=.*", "", "no TLS connection"),
    ],
)
def test_wrong_user_or_authority_is_refused_without_the_secret(
    publisher: Publisher,
    secured: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    problem: str,
) -> None:
    monkeypatch.setenv("LAKESCORE_REDIS_URL", re.sub(before.replace("?", r"\?"), after, secured.url))
    error = sent(publisher)
    assert isinstance(error, DeliveryRefused)
    assert problem in str(error)
    assert "let-me" not in str(error)
    assert "wrong" not in str(error).replace("wrong version", "")
    stored = "".join(path.read_text() for path in publisher.root.rglob("*.json"))
    assert "let-me" not in stored


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://127.0.0.1", "nonsense", "redis:///0", "redis://127.0.0.1:port/0", "redis://h/0?nope=1"),
        *("redis://h/production", "redis://h/0/1", "redis://h/0?decode_responses=true"),
    ],
)
def test_variable_without_a_url_is_a_usage_error(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LAKESCORE_REDIS_URL", url)
    error = sent(publisher)
    assert isinstance(error, UsageError)
    assert "LAKESCORE_REDIS_URL" in str(error)


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_password_that_is_not_encoded_is_refused_and_not_shown(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """What stands before the sign reads like a port, and the rest like a path."""
    monkeypatch.setenv("LAKESCORE_REDIS_URL", f"redis://user:4711{sign}secret@127.0.0.1:{free_port()}/0")
    error = sent(publisher)
    assert isinstance(error, UsageError)
    assert "%2F" in str(error)
    assert "4711" not in str(error)
    assert "secret" not in str(error)


def test_single_server_that_is_taken_for_a_cluster_is_refused(publisher: Publisher, redis_url: str) -> None:
    error = deliver_all(publisher.job('kind = "redis"\ncluster = true'), publisher.day(DAY)).error
    assert isinstance(error, DeliveryRefused)
    assert "cluster = false" in str(error)


@pytest.mark.parametrize("form", ["packed", "msgpack", "json"])
def test_reader_of_the_document_reads_every_format(publisher: Publisher, redis_url: str, form: str) -> None:
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(code, names)
    client = redis.Redis.from_url(redis_url)
    assert names["read"](client, "churn:t0", "u1") == {}
    columns = 'columns = { score = "prediction_proba", items = "[prediction, 3]" }'
    context = publisher.job(f'kind = "redis"\nformat = "{form}"\n{columns}')
    assert deliver_all(context, publisher.day(DAY)).error is None
    found = names["read"](client, "churn:t0", "u1", "absent", "u2")
    assert found == {"u1": {"score": 0.75, "items": [1, 3]}, "u2": {"score": 0.75, "items": [0, 3]}}
    client.close()
