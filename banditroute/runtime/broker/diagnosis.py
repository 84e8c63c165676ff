"""Why no broker can be talked to: one connection more, whose error aiokafka does not swallow.

A client that starts logs what went wrong with each server and raises that there was none. A wrong password, a host name
that does not exist and a certificate that nobody trusts all look alike then.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

PROBE_SECONDS: Final = 3.0
_OF_CONNECTIONS: Final = (
    "client_id", "security_protocol", "ssl_context", "sasl_mechanism", "sasl_plain_username",
    "sasl_plain_password",
)  # fmt: skip
_UNKNOWN_ISSUER: Final = {18, 19, 20, 21}  # X509_V_ERR: self signed, or no certificate of the issuer
_WRONG_HOST: Final = 62  # X509_V_ERR_HOSTNAME_MISMATCH
_EXPIRED: Final = {9, 10}


async def why_unreachable(options: Mapping[str, Any]) -> str:
    """Say in a clause why the first of the servers cannot be talked to.

    Parameters
    ----------
    options : mapping
        As `client_options` gives them.

    Returns
    -------
    str
        Judged by the kinds of the errors, not by their words; no secret is in it.
    """
    server = str(options["bootstrap_servers"]).partition(",")[0].strip()
    host, _, port = server.rpartition(":")
    host = host.strip("[]") or server
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None)
    except socket.gaierror:
        return f"the host name '{host}' cannot be resolved"
    given = {name: options[name] for name in _OF_CONNECTIONS if name in options}
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            connection = await create_conn(
                host, int(port or 9092), request_timeout_ms=int(1000 * PROBE_SECONDS), **given
            )
    except (KafkaError, OSError, ValueError, TimeoutError) as error:
        return _clause(error, server)
    connection.close()
    return f"{server} answers now, but did not in time"


def _clause(error: BaseException, server: str) -> str:
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in chain:
        chain.append(here)
        here = here.__cause__ or here.__context__
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return _certificate(each.verify_code, server)
        if isinstance(each, ssl.SSLError):
            return (
                f"{server} ended the TLS handshake: it may speak no TLS, or want a client certificate "
                "(kafka.ssl_certfile, ssl_keyfile)"
            )
        if isinstance(each, AuthenticationFailedError | SaslAuthenticationFailed):
            return f"{server} refused the credentials: check kafka.sasl_username and sasl_password"
        if isinstance(each, UnsupportedSaslMechanismError):
            return f"{server} does not know this kafka.sasl_mechanism"
    if any(isinstance(each, ConnectionRefusedError) for each in chain):
        return f"nothing listens on {server}"
    if any(isinstance(each, TimeoutError) for each in chain):
        return f"{server} takes connections or packets and does not answer: is kafka.security_protocol what it speaks?"
    return f"{server} closed the connection: is kafka.security_protocol what it speaks?"


def _certificate(code: int, server: str) -> str:
    if code in _UNKNOWN_ISSUER:
        return f"the certificate of {server} is from nobody that kafka.ssl_cafile trusts"
    if code == _WRONG_HOST:
        return f"the certificate of {server} is for another host name"
    if code in _EXPIRED:
        return f"the certificate of {server} is not valid at this time"
    return f"the certificate of {server} cannot be trusted"
