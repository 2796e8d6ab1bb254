"""What systemd is told of a service of ``Type=notify``: a datagram to the socket that it names, as sd_notify(3) has it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, STOPPING = "READY=1", "STOPPING=1"


def tell(state: str) -> None:
    """Tell it, if it asked for that; it is no reason to end that nobody hears it."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            telling.send(state.encode())
