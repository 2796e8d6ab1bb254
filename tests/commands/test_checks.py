"""What ``execution-api check`` finds, each in the situation that it is for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import jwt
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.commands import checks
from app.commands.checks import Check
from app.commands.embedded import EmbeddedPostgres, free_port
from tests.certificates import write_certificate
from tests.conftest import reachable
from tests.pgbouncer import pgbouncer
from tests.servers import FERNET_KEY, airflow_settings, beside_the_loop, our_server
from tests.standby import standby_of

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


@pytest.fixture
async def admin(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def found(url: str, *, replicas: int = 1, **settings: str) -> dict[str, Check]:
    """Return the results of all checks by name."""
    environment = {"AIRFLOW_HOME": "/nonexistent", **airflow_settings(url), **settings}
    return {result.name: result for result in await checks.run(environment, replicas=replicas)}


def said(results: dict[str, Check], name: str, *, passed: bool) -> str:
    assert results[name].passed is passed, results[name]
    return results[name].message


async def test_which_file_was_read(url: str, tmp_path: Path) -> None:
    results = await found(url, AIRFLOW_HOME=str(tmp_path))
    assert f"there is no {tmp_path}/airflow.cfg" in said(results, "configuration", passed=True)
    (tmp_path / "airflow.cfg").write_text("[core]\n")
    results = await found(url, AIRFLOW_HOME=str(tmp_path))
    assert f"{tmp_path}/airflow.cfg was read" in said(results, "configuration", passed=True)


async def test_stored_values_are_decrypted(url: str, admin: asyncpg.Connection) -> None:
    assert "nothing found that is encrypted" in said(await found(url), "fernet", passed=True)
    await admin.execute("DELETE FROM variable")
    for key, value in (("a", Fernet(FERNET_KEY).encrypt(b"x").decode()), ("b", "plain"), ("c", "")):
        await admin.execute("INSERT INTO variable (key, val, is_encrypted) VALUES ($1, $2, $3)", key, value, key != "b")
    password = Fernet(FERNET_KEY).encrypt(b"p").decode()
    await admin.execute(
        "INSERT INTO connection (conn_id, conn_type, password, is_encrypted, is_extra_encrypted)"
        " VALUES ('c', 'x', $1, true, false)",
        password,
    )
    assert "2 stored values decrypted" in said(await found(url), "fernet", passed=True)
    other = Fernet.generate_key().decode()
    rotated = await found(url, AIRFLOW__CORE__FERNET_KEY=f"{other},{FERNET_KEY}")
    assert "2 usable keys, 2 stored values decrypted" in said(rotated, "fernet", passed=True)
    assert "does not decrypt 2 of 2" in said(await found(url, AIRFLOW__CORE__FERNET_KEY=other), "fernet", passed=False)
    await admin.execute("DELETE FROM variable; DELETE FROM connection")


async def test_tokens_are_verified_as_the_scheduler_signs_them(url: str, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    own = {
        "AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH": str(tmp_path / "key.pem"),
        "AIRFLOW__API_AUTH__JWT_KID": "ours",
        "AIRFLOW__API_AUTH__TRUSTED_JWKS_URL": str(tmp_path / "keys.json"),
    }
    results = await found(url, **own)
    assert "cannot be read" in said(results, "jwks", passed=False)
    assert checks.may_still_pass(list(results.values()))
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**public, "kid": "theirs", "alg": "EdDSA"}]}))
    results = await found(url, **own)
    assert "1 usable key" in said(results, "jwks", passed=True)
    assert "no trusted key has this token's kid" in said(results, "keys", passed=False)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**public, "kid": "ours", "alg": "EdDSA"}]}))
    results = await found(url, **own, AIRFLOW__API_AUTH__JWT_ISSUER="me")
    assert "verified by a key of trusted_jwks_url" in said(results, "keys", passed=True)
    results = await found(url, AIRFLOW__API_AUTH__TRUSTED_JWKS_URL=str(tmp_path / "keys.json"))
    assert "signed with [api_auth] jwt_secret is not verified by a key of trusted_jwks_url" in said(
        results, "keys", passed=False
    )
    async with beside_the_loop(our_server(url, tmp_path, AIRFLOW__API_AUTH__TRUSTED_JWKS_URL=str(tmp_path / "keys.json"))):
        for _ in range(1000):
            if said_so := "will be refused" in (tmp_path / "ours.log").read_text():
                break
            await asyncio.sleep(0.01)
    assert said_so
    results = await found(url, AIRFLOW__API_AUTH__JWT_ALGORITHM="RS256")
    assert "none of which jwt_secret can sign with" in said(results, "keys", passed=False)


async def test_time_outs_are_below_what_workers_wait(url: str) -> None:
    own = "AIRFLOW__EXECUTION_API_SERVICE__"
    assert "workers wait 5 s" in said(await found(url), "time-outs", passed=True)
    said(await found(url, **{f"{own}STATEMENT_TIMEOUT": "4.5"}), "time-outs", passed=False)
    said(await found(url, **{f"{own}LOCK_TIMEOUT": "5"}), "time-outs", passed=False)
    results = await found(url, AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT="3")
    assert "execution_api_timeout is 3 s" in said(results, "time-outs", passed=False)


async def test_the_certificate_of_the_server(url: str, tmp_path: Path) -> None:
    assert "certificate" not in await found(url)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    settings = {"AIRFLOW__API__SSL_CERT": str(certificate), "AIRFLOW__API__SSL_KEY": str(key)}
    assert f"{certificate} is valid until 20" in said(await found(url, **settings), "certificate", passed=True)
    write_certificate(tmp_path / "other.pem", key)
    assert "cannot be used together" in said(await found(url, **settings), "certificate", passed=False)
    write_certificate(certificate, key, days=-1)
    said(await found(url, **settings), "certificate", passed=False)


async def test_a_pattern_is_compiled(url: str) -> None:
    results = await found(url, AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN="[a")
    assert "[scheduler] allowed_run_id_pattern must be a regular expression" in said(results, "configuration", passed=False)


async def test_connections_are_counted_over_replicas(url: str, admin: asyncpg.Connection) -> None:
    slots = int(await admin.fetchval("SHOW max_connections")) - int(
        await admin.fetchval("SHOW superuser_reserved_connections")
    )
    message = said(await found(url, replicas=3, AIRFLOW__API__WORKERS="4"), "pool", passed=True)
    assert message.startswith(f"12 workers x 10 connections = 120 of {slots} that PostgreSQL has")
    assert "leave 20 for Airflow" in said(await found(url, replicas=5, AIRFLOW__API__WORKERS="4"), "pool", passed=False)
    await admin.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 15; GRANT pg_read_all_data TO few")
    try:
        results = await found(url.replace("postgres@", "few@"), AIRFLOW__API__WORKERS="2")
        assert "and of 15 that the role or the database may have" in said(results, "pool", passed=False)
    finally:
        await admin.execute("DROP ROLE few")


async def test_a_missing_grant_is_told(url: str, admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE ROLE ungranted LOGIN; GRANT SELECT ON alembic_version TO ungranted")
    try:
        results = await found(url.replace("postgres@", "ungranted@"))
        assert "permission denied for table variable" in said(results, "tables", passed=False)
        assert not checks.may_still_pass(list(results.values()))
    finally:
        await admin.execute("DROP OWNED BY ungranted; DROP ROLE ungranted")


async def test_it_waits_for_what_others_still_do(postgres: EmbeddedPostgres) -> None:
    """As an init container does beside the job that migrates the database."""
    postgres.create_database("coming")
    environment = {"AIRFLOW_HOME": "/nonexistent", **airflow_settings(postgres.url("coming"))}
    told: asyncio.Queue[str] = asyncio.Queue()
    waited = asyncio.create_task(checks.run_until(environment, wait=60, told=told.put_nowait))
    assert "airflow db migrate" in await told.get()
    await asyncio.to_thread(postgres.run, "psql", "-qc", "DROP DATABASE coming WITH (FORCE)", "postgres")
    await asyncio.to_thread(postgres.create_metadata_database, "coming", "3.2")
    results = await waited
    assert all(result.passed for result in results)
    assert "metadata revision 3.2" in next(result.message for result in results if result.name == "database")


async def test_it_waits_for_a_role_that_is_not_let_in_yet(url: str, admin: asyncpg.Connection) -> None:
    """As a job beside it makes the role; what is refused to the end is still what may pass."""
    environment = {"AIRFLOW_HOME": "/nonexistent", **airflow_settings(url.replace("postgres@", "late@"))}
    assert checks.may_still_pass(await checks.run_until(environment, wait=0, told=pytest.fail))
    told: asyncio.Queue[str] = asyncio.Queue()
    waited = asyncio.create_task(checks.run_until(environment, wait=60, told=told.put_nowait))
    assert "does not let us in" in await told.get()
    await admin.execute("CREATE ROLE late LOGIN SUPERUSER")
    try:
        assert all(result.passed for result in await waited)
    finally:
        await admin.execute("DROP ROLE late")


async def test_counts_by_opentelemetry_have_no_effect(url: str) -> None:
    assert "stats" not in await found(url)
    assert "otel_on is True, which has no effect" in said(
        await found(url, AIRFLOW__METRICS__OTEL_ON="True"), "stats", passed=True
    )


async def test_what_waiting_does_not_help_is_told_at_once(url: str) -> None:
    environment = {"AIRFLOW_HOME": "/nonexistent", **airflow_settings(url), "AIRFLOW__CORE__FERNET_KEY": ""}
    results = await checks.run_until(environment, wait=600, told=pytest.fail)
    assert not checks.may_still_pass(results)


@slow
async def test_a_standby_only_reads(tmp_path: Path) -> None:
    folder = reachable(tmp_path)
    with EmbeddedPostgres(folder / "primary", options={"fsync": "off"}) as primary:
        primary.create_metadata_database("airflow", "3.3")
        with standby_of(primary, folder / "standby") as standby:
            assert f"127.0.0.1:{standby.port}/airflow" in (await found(standby.url()))["database"].message
            assert "it only reads" in said(await found(standby.url()), "database", passed=False)


@slow
async def test_plain_postgresql_is_told_from_pgbouncer(url: str, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    option = "AIRFLOW__EXECUTION_API_SERVICE__PGBOUNCER"
    assert "PostgreSQL itself answers" in said(await found(url), "pooler", passed=True)
    assert "WARNING" in said(await found(url, **{option: "True"}), "pooler", passed=True)
    with pgbouncer(postgres, reachable(tmp_path) / "pgbouncer") as port:
        behind = url.replace(str(postgres.port), str(port))
        results = await found(behind, **{option: "True"})
        assert "a pooler such as PgBouncer answers" in said(results, "pooler", passed=True)
        assert "max_client_conn" in said(results, "pool", passed=True)
        assert "set [execution_api_service] pgbouncer to True" in said(await found(behind), "database", passed=False)


async def test_nobody_is_there() -> None:
    results = await found(f"postgresql://u@127.0.0.1:{free_port()}/d")
    assert "cannot be reached" in said(results, "database", passed=False)
    assert said(results, "fernet", passed=True)
    assert checks.may_still_pass(list(results.values()))
    assert "socket /nowhere/.s.PGSQL.5432/d" in said(
        await found("postgresql://u@/d?host=/nowhere"), "database", passed=False
    )
