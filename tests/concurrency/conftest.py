"""The application inside the test's process, with its statements recorded."""

from tests.faults.conftest import connection, ours, url

__all__ = ["connection", "ours", "url"]
