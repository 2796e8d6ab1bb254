"""What is listened on: sockets that are bound and do not listen yet, so that nobody waits in them before somebody serves."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import ConfigurationError
from app.server.protocol import ANSWER_SECONDS
from app.settings.model import HIGHEST_PORT

ANYBODY = 0o666  # as on a port of this machine, and as uvicorn has it; who must not come in is kept out by the folder


def on_port(host: str, port: int, *, host_option: str = "--host", port_option: str = "--port") -> list[socket.socket]:
    """Return sockets bound to every address of a host; ``::`` is every address of both families.

    :param host_option: where the host was said.
    :param port_option: where the port was said.
    :raises ConfigurationError: when one cannot be.
    """
    if not 1 <= port <= HIGHEST_PORT:  # of a larger one the system would take the rest
        raise ConfigurationError(f"{port} is not a port: expected 1 to {HIGHEST_PORT} in {port_option}")
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            sockets.append(each := socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # Connections inherit it: what is left of an answer when its connection is closed is not kept for who reads
                # no more, or has gone without a word.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(ANSWER_SECONDS * 1000))
            each.bind(address)
            each.setblocking(False)
    except OSError as error:
        for each in sockets:
            each.close()
        what = f"cannot listen on {host} port {port} ({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"{what}: choose another with {port_option}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            below = "ports below 1024 need a privilege, CAP_NET_BIND_SERVICE"
            raise ConfigurationError(f"{what}: {below}; or choose another with {port_option}") from error
        raise ConfigurationError(f"{what}: expected an address of this machine in {host_option}") from error
    return sockets


@contextmanager
def on_path(path: Path) -> Iterator[socket.socket]:
    """Bind a Unix socket, in place of one that somebody left who listens no more, and take it away at the end.

    :raises ConfigurationError: when there is something else, or none can be made.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            if path.is_socket() and not _is_listened_to(path):
                path.unlink()
            listening.bind(str(path))
            path.chmod(ANYBODY)
            made = path.stat()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"cannot listen on {path} ({reason}): expected a path for a new socket in --uds"
            ) from error
        listening.setblocking(False)
        try:
            yield listening
        finally:
            with suppress(OSError):
                if path.stat().st_ino == made.st_ino:  # and not a successor's
                    path.unlink()


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
