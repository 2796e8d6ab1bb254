"""Asks a server for its health again and again until its standard input ends: how long do others wait for one request?

A process of its own, so that it waits for nobody but the server. It prints a line once it asks, and in the end the
milliseconds of each answer, as a JSON list.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from threading import Thread
from urllib.parse import urlsplit

PAUSE = 0.005  # seconds between two questions


def main(base_url: str) -> None:
    ends = Thread(target=sys.stdin.read, daemon=True)
    ends.start()
    url = urlsplit(base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    waits = []
    while ends.is_alive():
        asked = time.perf_counter()
        connection.request("GET", f"{url.path}/health")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        if not waits:
            sys.stdout.write("\n")
            sys.stdout.flush()  # who waits for us may begin
        waits.append((time.perf_counter() - asked) * 1000)
        time.sleep(PAUSE)
    json.dump(waits, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
