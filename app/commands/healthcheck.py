"""``execution-api healthcheck``: whether the service on this machine answers, for who asks by a command.

It asks for liveness alone: one that waits for its database is well, and to end it would help nobody.
"""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

from app.settings import ServerSettings

PATH = "/execution/health"  # served there behind any proxy too, whatever is put before it
TIMEOUT = 2.5  # seconds; container engines commonly give a check 3
ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def run(server: ServerSettings, *, uds: Path | None = None) -> str | None:
    """Return what is wrong with the service, or None when it answers.

    :param uds: the socket that it listens on instead of a port.
    """
    connection: HTTPConnection = HTTPConnection("localhost", timeout=TIMEOUT)
    host = ANY_ADDRESS.get(server.host, server.host)
    where = str(uds) if uds else f"{host} port {server.port}"
    if uds is None:
        connection = HTTPConnection(host, server.port, timeout=TIMEOUT)
    if server.ssl_cert:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is this machine's own, for a name that others call it by
        connection = HTTPSConnection(host, server.port, timeout=TIMEOUT, context=context)
    try:
        if uds is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(TIMEOUT)
            connection.sock.connect(str(uds))
        connection.request("GET", PATH)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"no answer from {where}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{where} answers {status}"
