"""Connections as operators write them into ``AIRFLOW_CONN_*``: each is asked of the real servers as well."""

from __future__ import annotations

import itertools
import json

URIS = [
    "aws://?endpoint_url=http://localhost:4566", "aws:///?endpoint_url=http://minio:9000&region_name=eu", "aws://",
    "http://user:pw@https://host", "http://https://user:pw@host:80", "http://https://host:8080/x", "http://a://b://c", "http://http://h", "http://x:1://h", "ftp://h?a=://", "ftp://h?a=ftp://b",
    "Postgres://u:p@h/d", "POSTGRESQL://h", "postgresql://h", "postgresql+psycopg2://h", "my-Type://h", "my_type://h",
    "ftp://user:@host", "ftp://:pw@host", "ftp://:@host", "ftp://user@host", "ftp://@host", "ftp://u%40d:p%3Aw%2F%25@host",
    "ftp://u@d:p@w@host", "ftp://u:p:w@host", "ftp://host:21", "ftp://host:", "ftp://host:x", "ftp://host:99999", "ftp://host:0",
    "ftp://HOST.Example", "ftp://%2Fpath%2FTo", "ftp://%2Fpath:3", "ftp://a%2Fb", "ftp://[::1]:21/x", "ftp://[::1]", "ftp://::1",
    "ftp://h/s/t", "ftp://h/s%2Ft", "ftp://h/", "ftp://h/?a=b", "ftp://h/s#f", "ftp://h?a=b#f", "ftp://u:p#w@h/s",
    "ftp://h?a=1&b=true&c=null&d=1.5&e=x&f=", "ftp://h?a=1&a=2", "ftp://h?a=%7B%22x%22%3A1%7D", "ftp://h?a=[1,2]", "ftp://h?a",
    "ftp://h?a=b+c%20d", "ftp://h?__extra__=[1]", "ftp://h?__extra__=%7B%22a%22%3A+1%7D", "ftp://h?__extra__=x", "ftp://h?__extra__=",
    "ftp://h?__extra__=%7B%7D&a=b", "ftp://h?a=NaN", "ftp://h?a=1e400", "ftp://h?a=%22text%22", "ftp://h?%20=x", "ftp://h?",
    "ftp:h", "ftp:/h", "ftp//h", "host", "://h", "//h", "", " ", " ftp://h ", "ftp://h\n", "ftp:// h", "é://h", "ftp://é/é", "1ftp://h",
    "google-cloud-platform://?key_path=%2Fk.json&scope=a,b", "x://" + "h" * 300, "ftp://h/" + "s" * 300, "ftp://u\tv@h",
]  # fmt: skip
_COMPLETE = {"conn_type": "my-type", "host": "h", "login": "l", "password": "p", "schema": "s", "port": 1, "extra": {"a": 1}}
_VALUES = (None, "", "x", 5, 5.5, True, [], [1], {}, {"a": "b"})
JSONS = [
    *(json.dumps({**_COMPLETE, name: value}) for name, value in itertools.product(_COMPLETE, _VALUES)),
    *(json.dumps({key: value for key, value in _COMPLETE.items() if key != name}) for name in _COMPLETE),
    *(json.dumps({**_COMPLETE, **more}) for more in ({"unknown": 1}, {"uri": "ftp://u:p@h"}, {"conn_id": "other"}, {"id": 5}, {"description": "d"}, {"port": "5"}, {"port": " 5"}, {"port": "5.0"}, {"port": -1}, {"port": 2**40}, {"extra": '{"a": 1}'}, {"extra": "[1]"}, {"extra": "{"}, {"host": "é"})),
    '{"uri": "ftp://u:p@h/s?a=1"}', '{"uri": ""}', '{"uri": 5}', '{"uri": "x"}', "{}", "{", '{"a": 1}', "[1]", "[]", "5", "null", '"ftp://h"',
    ' {"conn_type": "x"} ', '\n{"conn_type": "x"}\n', '{"conn_type": "x", "conn_type": "y"}', '{"conn_type": "X-y"}', '{"conn_type": "postgresql"}',
    '{"conn_type": "x", "port": NaN}', '{"conn_type": "x", "extra": NaN}', '{"conn_type": "x", "extra": {"a": NaN}}', '{"conn_type": "x", "extra": {"a": "é"}}',
]  # fmt: skip
TEXTS = [*URIS, *JSONS]
