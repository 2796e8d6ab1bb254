"""What a request's bytes say before they are parsed is what the parser would say."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.server.heads import HEAD_BYTES, Plain, plain

LINE = b"PATCH /execution/task-instances/ti/run HTTP/1.1"
HOST = b"Host: ours"
RUN = "/execution/task-instances/ti/run"


def request(*headers: bytes, line: bytes = LINE, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *headers, b"", body])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(HOST), Plain("PATCH", RUN, None)),
        (request(HOST, b"Content-Length: 2", body=b"{}"), Plain("PATCH", RUN, None)),
        (request(b"content-length: 0", HOST, b"correlation-ID:  a b "), Plain("PATCH", RUN, b"a b ")),
        (request(b"Correlation-Id: a", b"correlation-id: b"), Plain("PATCH", RUN, b"a")),
        (
            request(HOST, line=b"GET /execution/xcoms/d/r?map_index=-1&k=%20 HTTP/1.1"),
            Plain("GET", "/execution/xcoms/d/r", None),
        ),
    ],
)
def test_what_it_says(data: bytes, expected: Plain) -> None:
    assert plain(data) == expected
    assert _parsed(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        request(HOST, line=b"HEAD /execution/xcoms/d/r/t/k HTTP/1.1"),  # whose answer has no content
        request(HOST, line=b"GET /execution/variables/a%2Fb HTTP/1.1"),
        request(HOST, line=b"GET /execution/variables/v#a HTTP/1.1"),
        request(HOST, line=b"GET http://ours/execution/variables/v HTTP/1.1"),
        request(HOST, line=b"GET /execution/variables/v HTTP/1.0"),
        request(HOST, b"Connection: close"),
        request(HOST, b"Connection: upgrade", b"Upgrade: websocket"),
        request(HOST, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request(HOST, b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"{}"),
        request(HOST, b"Expect: 100-continue", b"Content-Length: 2", body=b"{}"),
        request(HOST, b"X-Forwarded-For: 192.0.2.7"),
        request(HOST, b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        request(HOST, b"Content-Length: 3", body=b"{}"),  # more is to come
        request(HOST, b"Content-Length: 1", body=b"{}"),  # and more has come
        request(HOST, b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
        request(HOST, b"Content-Length: +2", body=b"{}"),
        request(HOST, b"Content-Length : 2", body=b"{}"),
        request(HOST, b"Content-Length: 2", b" 3", body=b"{}"),
        request(HOST, b"User-Agent: \xe9"),
        request(HOST, b"User-Agent: a\n"),
        request(HOST) + request(HOST),
        request(HOST)[:-2],
        b"\r\n" + request(HOST),
    ],
)
def test_what_is_left_to_the_parser(data: bytes) -> None:
    assert plain(data) is None


def test_what_is_too_large_to_be_kept() -> None:
    assert plain(request(HOST, b"User-Agent: %s" % (b"a" * HEAD_BYTES))) is None


def mostly(usual: list[bytes], *unusual: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(usual * 5 * len(unusual) + [*unusual])


HEADERS = st.lists(
    st.tuples(
        mostly(
            [b"Host", b"correlation-id", b"Content-Length"],
            b"content-length",
            b"Connection",
            b"Transfer-Encoding",
            b"Expect",
        ),
        mostly([b": "], b":", b" : ", b":\t", b" "),
        mostly(
            [b"2", b"0", b"ours"], b"02", b" 2", b"2 ", b"keep-alive", b"close", b"chunked", b"\t", b"", b"a\rb", b"\xe9"
        ),
        mostly([b"\r\n"], b"\n", b"\r\n ", b"\r\r\n"),
    ).map(b"".join),
    max_size=4,
).map(b"".join)
LINES = st.tuples(
    mostly([b"PATCH", b"GET"], b"HEAD", b"OPTIONS", b"get"),
    st.text('/a?=&:;~-%#"<\\é', max_size=6).map(lambda rest: b" /execution/" + rest.encode()),
    mostly([b" HTTP/1.1\r\n"], b" HTTP/1.0\r\n", b" HTTP/1.1\n", b"\r\n"),
).map(b"".join)
BODIES = mostly([b"", b"{}"], b"0\r\n\r\n")


@settings(max_examples=400, deadline=None)
@given(st.tuples(LINES, HEADERS, st.just(b"\r\n"), BODIES).map(b"".join))
@example(request(HOST, b"Content-Length: 2", body=b"{}"))
def test_nothing_is_read_otherwise_than_the_parser_reads_it(data: bytes) -> None:
    if (found := plain(data)) is not None:
        assert _parsed(data) == found


def _parsed(data: bytes) -> Plain:
    """Return what the parser reads, which must be one request that leaves the connection open."""
    heard = _Heard()
    parser = httptools.HttpRequestParser(heard)
    parser.feed_data(data)
    assert heard.ends == 1
    assert parser.should_keep_alive()
    assert not parser.should_upgrade()
    assert parser.get_http_version() == "1.1"
    correlation_ids = [value for name, value in heard.headers if name.lower() == b"correlation-id"]
    path = httptools.parse_url(heard.url).path.decode()
    return Plain(parser.get_method().decode(), path, correlation_ids[0] if correlation_ids else None)


class _Heard:
    """What the parser calls."""

    def __init__(self) -> None:
        self.url, self.headers, self.ends = b"", list[tuple[bytes, bytes]](), 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.ends += 1
