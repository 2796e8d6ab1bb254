"""The TLS context that libpq's parameters stand for."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import lru_cache

SYSTEM = "system"  # sslrootcert: the certificates that the system trusts
FILES = ("sslrootcert", "sslcrl", "sslcert", "sslkey")


def context(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context for ``sslmode`` ``require``, ``verify-ca`` or ``verify-full``, the same until a file changes.

    To read a bundle of 144 authorities takes 26 ms: too long for each connection, and renewed certificates must be taken.

    :raises OSError: when a file cannot be read, or is none of PEM.
    """
    paths = [path for name in FILES if (path := parameters.get(name)) and path != SYSTEM]
    stamps = tuple(os.stat(path).st_mtime_ns for path in paths)
    return _made(frozenset(item for item in parameters.items() if item[0].startswith("ssl")), stamps)


@lru_cache(maxsize=4)
def _made(given: frozenset[tuple[str, str]], stamps: tuple[int, ...]) -> ssl.SSLContext:
    parameters = dict(given)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = parameters["sslmode"] == "verify-full"
    made.verify_mode = ssl.CERT_REQUIRED
    if (authorities := parameters.get("sslrootcert")) == SYSTEM:
        made.load_default_certs()
    elif authorities:
        made.load_verify_locations(authorities)
    else:  # libpq's require verifies if there is something to verify with
        made.verify_mode = ssl.CERT_NONE
    if revoked := parameters.get("sslcrl"):
        made.load_verify_locations(revoked)
        made.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate := parameters.get("sslcert"):
        made.load_cert_chain(certificate, parameters.get("sslkey"), password=lambda: parameters.get("sslpassword", ""))
    made.minimum_version = _version(parameters.get("ssl_min_protocol_version", "TLSv1.2"))
    if highest := parameters.get("ssl_max_protocol_version"):
        made.maximum_version = _version(highest)
    made.set_alpn_protocols(["postgresql"])
    return made


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]
