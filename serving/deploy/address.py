"""The address of the endpoint: its certificate, and whether a Serve that already runs has the same address."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pipelines.config.serving import ServingConfig, TlsConfig
from pipelines.errors import UserError
from serving.deploy.serve_config import PROXY_GRACE_S, absolute, tls_options

if TYPE_CHECKING:
    from ray.serve.config import HTTPOptions


def check_tls(tls: TlsConfig | None) -> None:
    """Raises UserError if this process cannot use the certificate with its key."""
    if tls is None:
        return
    certificate, key = absolute(tls.certificate), absolute(tls.key)
    try:
        # With a password, which is wrong: OpenSSL would ask the terminal for that of an encrypted key.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="-")
    except OSError as error:  # ssl.SSLError is one
        value = f"serving.tls.certificate {tls.certificate} with key {tls.key}"
        remedy = "Give a certificate and its key in PEM form, without a password."
        raise UserError(value, f"they cannot be used ({error.strerror or error})", remedy) from error


def check_running_proxy(options: HTTPOptions, serving: ServingConfig) -> None:
    """Raises UserError if the running Serve listens elsewhere, or ends requests too early. It changes neither while it runs."""
    remedy = "Set it to that, or end Serve first: `serve shutdown`."
    certificate = tls_options(serving).get("ssl_certfile")
    for key, found, wanted in (
        ("host", options.host, serving.host),
        ("port", options.port, serving.port),
        ("tls.certificate", options.ssl_certfile, certificate),
    ):
        if found != wanted:
            raise UserError(f"serving.{key} {wanted}", f"Serve already runs on this Ray, with {key} {found}", remedy)
    limit_s = options.request_timeout_s
    # The ingress itself enforces a shorter limit.
    if limit_s is not None and limit_s < serving.request_timeout_s + PROXY_GRACE_S:
        rule = f"Serve already runs on this Ray, and its proxy ends requests after {limit_s:g} s"
        remedy = f"Set at most {limit_s - PROXY_GRACE_S:g}, or end Serve first: `serve shutdown`."
        raise UserError(f"serving.request_timeout_s {serving.request_timeout_s:g}", rule, remedy)
