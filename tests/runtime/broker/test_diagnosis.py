"""A client that cannot connect says why, in a clause that rests on kinds of errors and not on their words."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from banditroute.config import from_dict
from banditroute.errors import BrokerUnavailable
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.options import client_options

pytestmark = pytest.mark.asyncio

MODELS = [{"name": "m", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}]


async def said(server: str, **kafka: object) -> str:
    config = from_dict(
        {"models": MODELS, "kafka": {"bootstrap_servers": server, "startup_timeout": "300ms", **kafka}}
    )
    assert client_options(config)
    with pytest.raises(BrokerUnavailable) as refused:
        await KafkaClient(config).start()
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert server in sentence
    return sentence


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_host_that_does_not_exist_is_named() -> None:
    assert "the host name 'no-such-host.invalid' cannot be resolved" in await said(
        "no-such-host.invalid:9092"
    )


async def test_where_nothing_listens_that_is_said() -> None:
    server = f"127.0.0.1:{free_port()}"
    assert f"nothing listens on {server}" in await said(server)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    return key, cert


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_a_certificate_that_is_not_trusted_and_one_of_another_host_are_told_apart(
    tmp_path: Path,
) -> None:
    key, cert = certificate(tmp_path, "broker.example")
    _, other = certificate(tmp_path, "other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        untrusted = await said(where, security_protocol="SSL", ssl_cafile=str(other))
        assert "from nobody that kafka.ssl_cafile trusts" in untrusted
        assert "certificate" in await said(where, security_protocol="SSL", ssl_cafile=str(cert))
    finally:
        server.close()


async def test_a_server_that_speaks_no_tls_is_told() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS here, go away\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        assert "it may speak no TLS" in await said(where, security_protocol="SSL")
    finally:
        server.close()
