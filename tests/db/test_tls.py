"""A database with TLS from an authority of its own: the URLs that cloud providers tell, and what each protects from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import text

from app.commands import checks
from app.commands.embedded import EmbeddedPostgres
from app.db.session import Database
from app.errors import ConfigurationError
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.certificates import Authority, Issued
from tests.conftest import reachable
from tests.debian_postgres import postgres_with_tls
from tests.servers import airflow_settings

pytestmark = pytest.mark.slow
TLS = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
SECRET = quote("s3cret p%w")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reachable(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def user(authority: Authority) -> Issued:
    return authority.issue("by_certificate", password=b"of the key")


@pytest.fixture(scope="module")
def server(folder: Path, authority: Authority) -> Iterator[EmbeddedPostgres]:
    with postgres_with_tls(folder / "server", authority) as running:
        yield running


async def is_encrypted(url: str) -> bool:
    """Say whether a connection to a URL is encrypted."""
    database = Database(DatabaseSettings(url=async_url(url, setting="the URL")), is_patient=False)
    try:
        async with database.autocommit() as session:
            return bool(await session.scalar(TLS))
    finally:
        await database.close()


def url_for(server: EmbeddedPostgres, user: str, query: str, *, host: str = "localhost") -> str:
    return f"postgresql+psycopg2://{user}@{host}:{server.port}/postgres?{query}"


async def refusal(url: str) -> str:
    """Return the sentence with which ``serve`` refuses a URL."""
    with pytest.raises(ConfigurationError) as raised:
        await checks.require_database(DatabaseSettings(url=async_url(url, setting="[database] sql_alchemy_conn")))
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_a_password_over_tls(server: EmbeddedPostgres, authority: Authority, mode: str) -> None:
    """As Amazon's RDS has it: SCRAM, and the provider's own authority in a file."""
    query = f"sslmode={mode}&sslrootcert={authority.certificate}&channel_binding=prefer&gssencmode=disable"
    assert await is_encrypted(url_for(server, f"by_password:{SECRET}", query))


async def test_a_certificate_in_the_place_of_a_password(
    server: EmbeddedPostgres, authority: Authority, user: Issued
) -> None:
    query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    query += f"&sslcert={user.certificate}&sslkey={user.key}&sslpassword=of%20the%20key"
    assert await is_encrypted(url_for(server, "by_certificate", query))
    assert await is_encrypted(url_for(server, "by_certificate", query.replace("verify-full", "prefer")))
    assert "sslcert" in await refusal_of_load(url_for(server, "by_certificate", query.replace("of%20the%20key", "s3cret")))
    without = url_for(server, "by_certificate", f"sslmode=verify-full&sslrootcert={authority.certificate}")
    assert "certificate" in await refusal(without)


async def test_check_says_how_it_is_encrypted(server: EmbeddedPostgres, authority: Authority, user: Issued) -> None:
    server.create_metadata_database("airflow", "3.3")
    query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    for name, rest in (
        (f"by_password:{SECRET}", ""),
        ("by_certificate", f"&sslcert={user.certificate}&sslkey={user.key}&sslpassword=of%20the%20key"),
    ):
        url = url_for(server, name, query + rest).replace("/postgres?", "/airflow?")
        results = await checks.run({"AIRFLOW_HOME": "/nonexistent", **airflow_settings(url)})
        assert [result.name for result in results if not result.passed] == []
        database = next(result.message for result in results if result.name == "database")
        assert f"localhost:{server.port}/airflow, PostgreSQL " in database
        assert ", TLSv1.3, takes writes, metadata revision 3.3" in database


async def refusal_of_load(url: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        async_url(url, setting="the URL")
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


async def test_another_authority_and_another_name_are_refused(
    server: EmbeddedPostgres, authority: Authority, folder: Path
) -> None:
    (folder / "other").mkdir()
    other = Authority(folder / "other")
    url = url_for(server, f"by_password:{SECRET}", f"sslmode=verify-ca&sslrootcert={other.certificate}")
    assert "certificate verify failed" in await refusal(url)
    query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    assert "127.0.0.1" in await refusal(url_for(server, f"by_password:{SECRET}", query, host="127.0.0.1"))
    assert await is_encrypted(
        url_for(server, f"by_password:{SECRET}", query.replace("full", "ca"), host="127.0.0.1")
    )  # fmt: skip
    system = url_for(server, f"by_password:{SECRET}", "sslrootcert=system")
    assert "certificate verify failed" in await refusal(system)


async def test_a_revoked_certificate_is_refused(server: EmbeddedPostgres, authority: Authority, folder: Path) -> None:
    query = f"sslmode=verify-ca&sslrootcert={authority.certificate}&sslcrl="
    assert await is_encrypted(url_for(server, f"by_password:{SECRET}", query + str(authority.revoke())))
    revoked = authority.revoke(Issued(folder / "localhost.pem", folder / "localhost.key"))
    assert "certificate revoked" in await refusal(url_for(server, f"by_password:{SECRET}", query + str(revoked)))


async def test_without_tls_nobody_is_let_in(server: EmbeddedPostgres) -> None:
    assert "no encryption" in await refusal(url_for(server, f"by_password:{SECRET}", "sslmode=disable"))
    assert "password authentication failed" in await refusal(url_for(server, "by_password:s3cret", "sslmode=require"))
