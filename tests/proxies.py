"""The proxies of ``deploy/canary``, as their operators run them: each with its own file, on addresses of this machine."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.embedded import free_port
from tests import debian
from tests.servers import ROOT, pinned_environment

CANARY = ROOT / "deploy" / "canary"
KNOBS = {"nginx.conf": r"5%( +ours;)", "haproxy.cfg": r"(CANARY_SHARE) 5", "traefik-dynamic.yaml": r"weight: (5|95)\b"}
FILES = tuple(KNOBS)
STARTED_WITHIN = 20.0  # seconds
NGINX = """
user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log notice; daemon off;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; include {file}; }}
"""


class Proxy:
    """A running proxy.

    :param file: of ``deploy/canary``.
    :param ours: port of ours.
    :param airflow: port of Airflow's own server.
    """

    def __init__(self, file: str, folder: Path, *, ours: int, airflow: int, share: int) -> None:
        self.port, self._inner = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/execution"
        self.log = folder / f"{file}.log"
        self._file, self._folder, self._ports = (
            file,
            folder,
            {"execution-api:9091": ours, "airflow-api-server:8080": airflow},
        )
        self._written = folder / file
        self._write(share)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command(), cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def turn(self, share: int) -> None:
        """Turn the knob, in percent, as an operator does."""
        self._write(share)
        if self._file == "nginx.conf":
            subprocess.run([*self._nginx(), "-s", "reload"], check=True, capture_output=True)
        elif self._file == "haproxy.cfg":  # without a master process, a reload is a start
            self.stop()
            self._process = self._start()
        self.wait()

    def wait(self) -> None:
        """Wait until it listens."""
        deadline = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _write(self, share: int) -> None:
        text = (CANARY / self._file).read_text().replace("9090", str(self.port)).replace("9190", str(self._inner))
        for address, port in self._ports.items():
            assert address in text
            text = text.replace(address, f"127.0.0.1:{port}")
        assert re.search(KNOBS[self._file], text)
        if self._file == "nginx.conf":
            text = re.sub(r"5%( +ours;)", rf"{share}%\1" if share else "", text)
        elif self._file == "haproxy.cfg":
            text = text.replace("CANARY_SHARE 5", f"CANARY_SHARE {share}")
        else:
            text = text.replace("weight: 5}", f"weight: {share}}}").replace("weight: 95}", f"weight: {100 - share}}}")
        new = self._written.with_suffix(".new")
        new.write_text(text)
        new.replace(self._written)

    def _command(self) -> list[str]:
        if self._file == "nginx.conf":
            return self._nginx()
        if self._file == "haproxy.cfg":
            return ["haproxy", "-db", "-f", str(self._written)]
        traefik = pinned_environment("traefik") / "bin" / "traefik"
        (said,) = re.findall(r"^# +traefik (.*)$", self._written.read_text(), re.M)
        return [str(traefik), *said.split()]

    def _nginx(self) -> list[str]:
        main = self._folder / "main.conf"
        main.write_text(NGINX.format(folder=self._folder, file=self._written))
        return ["nginx", "-c", str(main), "-e", str(self._folder / "nginx.log")]


@contextmanager
def proxy(file: str, folder: Path, *, ours: int, airflow: int, share: int) -> Iterator[Proxy]:
    """Run a proxy until the block ends."""
    if file != "traefik-dynamic.yaml":
        program = file.partition(".")[0]
        debian.install(program, programs=(program,))
    running = Proxy(file, folder, ours=ours, airflow=airflow, share=share)
    try:
        running.wait()
        yield running
    finally:
        running.stop()
