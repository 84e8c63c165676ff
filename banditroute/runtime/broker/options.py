"""The [kafka] table as options of an aiokafka client: the one place where a secret is revealed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from aiokafka.helpers import create_ssl_context

from banditroute.config import Config, Kafka
from banditroute.errors import ConfigError


def client_options(config: Config) -> dict[str, Any]:
    """Return the aiokafka options every client of ours shares: servers, identity, security.

    Raises
    ------
    ConfigError
        If a TLS file cannot be read or used.
    """
    kafka = config.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": kafka.client_id,
        "request_timeout_ms": int(1000 * kafka.request_timeout),
        "security_protocol": kafka.security_protocol,
        "retry_backoff_ms": 100,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.reveal() if kafka.sasl_password else None
    return options


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(kafka, key)
        try:
            if path is not None:
                Path(path).read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"kafka.{key}: Expected the path of a PEM file, got {path!r}: {reason}"
            ) from error
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=kafka.ssl_cafile,
            certfile=kafka.ssl_certfile,
            keyfile=kafka.ssl_keyfile,
            # without a password OpenSSL would ask for one at the terminal
            password=kafka.ssl_password.reveal() if kafka.ssl_password else "",
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            "kafka.ssl_cafile, ssl_certfile, ssl_keyfile: Expected PEM files that belong together and, for an "
            f"encrypted key, its ssl_password: {error}"
        ) from error
    return context
