"""Configurations as operators write them, and what Airflow reads: each row is asked of the real Airflows as well."""

from __future__ import annotations

from dataclasses import dataclass, field

REFUSED = None  # Airflow ends with an error
SECRET = ("api_auth", "jwt_secret")
URL = ("database", "sql_alchemy_conn")


@dataclass(frozen=True)
class Configuration:
    """A row.

    :param option: its section and key.
    :param value: what Airflow reads; :data:`REFUSED` where it refuses.
    :param file: the text of ``airflow.cfg``.
    :param environment: further variables; ``HOME`` is ``/home/me``.
    """

    name: str
    option: tuple[str, str]
    value: str | None
    file: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def _file(name: str, option: tuple[str, str], written: str, value: str | None, **environment: str) -> Configuration:
    return Configuration(name, option, value, f"[{option[0]}]\n{option[1]} = {written}\n", environment)


def _variable(name: str, option: tuple[str, str], written: str, value: str | None, **environment: str) -> Configuration:
    return Configuration(name, option, value, "", {f"AIRFLOW__{option[0]}__{option[1]}".upper(): written, **environment})


CONFIGURATIONS = [
    _file("plain", SECRET, "plain", "plain"),
    _file("blanks around", SECRET, "  a b  ", "a b"),
    _file("empty", SECRET, "", ""),
    _file("two percents", SECRET, "a%%b", "a%b"),
    _file("a percent", SECRET, "a%b", REFUSED),
    _file("a percent at the end", SECRET, "a%", REFUSED),
    _file("an escaped URL", URL, "postgresql://u:p%%40w@h/d", "postgresql://u:p%40w@h/d"),
    _file("a name", SECRET, "%(seed)s-x\nseed = grown", "grown-x"),
    _file("a name of a name", SECRET, "%(a)s\na = %(b)s\nb = c", "c"),
    _file("an unknown name", SECRET, "%(nowhere)s", REFUSED),
    _file("a name of itself", SECRET, "%(jwt_secret)s", REFUSED),
    Configuration("a name of the defaults", SECRET, "d-x", "[DEFAULT]\nseed = d\n[api_auth]\njwt_secret = %(seed)s-x\n"),
    Configuration("an option of the defaults", SECRET, "d", "[DEFAULT]\njwt_secret = d\n[api_auth]\n"),
    _file("a variable", SECRET, "$SEED-x", "grown-x", SEED="grown"),
    _file("a variable in braces", SECRET, "${SEED}x", "grownx", SEED="grown"),
    _file("a variable of a variable", SECRET, "$A", "c", A="$B", B="c"),
    _file("an unknown variable", SECRET, "$NOWHERE-x", "$NOWHERE-x"),
    _file("a dollar", SECRET, "a$", "a$"),
    _file("two dollars", SECRET, "a$$b", "a$$b"),
    _file("an empty brace", SECRET, "${}", "${}"),
    _file("a variable after percents", SECRET, "%%(x)s$SEED", "%(x)sgrown", SEED="grown"),
    _file("home", ("api", "ssl_cert"), "~/cert.pem", "/home/me/cert.pem"),
    _file("home not in front", ("api", "ssl_cert"), "/x/~/cert.pem", "/x/~/cert.pem"),
    _file("home by a variable", ("api", "ssl_cert"), "$HOME/cert.pem", "/home/me/cert.pem"),
    _file("a comment on a line", SECRET, "x # y", "x # y"),
    _file("a comment with a semicolon", SECRET, "x ; y", "x ; y"),
    _file("a comment below", SECRET, "x\n# y\n; z", "x"),
    _file("a value of two lines", SECRET, "x\n  y", "x\ny"),
    _file("an equals sign", SECRET, "x=y:z", "x=y:z"),
    Configuration("a colon", SECRET, "x", "[api_auth]\njwt_secret: x\n"),
    Configuration("a key in capitals", SECRET, "", "[api_auth]\nJWT_SECRET = x\n"),
    Configuration("twice", SECRET, REFUSED, "[api_auth]\njwt_secret = x\njwt_secret = y\n"),
    Configuration("a section twice", SECRET, REFUSED, "[api_auth]\njwt_secret = x\n[api_auth]\njwt_leeway = 1\n"),
    Configuration("no section", SECRET, REFUSED, "jwt_secret = x\n"),
    Configuration("no value", SECRET, REFUSED, "[api_auth]\njwt_secret\n"),
    _variable("plain variable", SECRET, "x", "x"),
    _variable("empty variable", SECRET, "", ""),
    _variable("percents in a variable", SECRET, "a%b%%c%(d)s", "a%b%%c%(d)s"),
    _variable("a variable in a variable", SECRET, "$SEED-${SEED}", "g-g", SEED="g"),
    _variable("home in a variable", ("api", "ssl_cert"), "~/cert.pem", "/home/me/cert.pem"),
    _variable("a dollar in a password", URL, "postgresql://u:p$w@h/d", "postgresql://u:p$w@h/d"),
    _variable("blanks in a variable", SECRET, " x ", " x "),
    Configuration("the variable wins", SECRET, "v", "[api_auth]\njwt_secret = f\n", {"AIRFLOW__API_AUTH__JWT_SECRET": "v"}),
    Configuration("a command", SECRET, "x\n", "", {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "echo x"}),
    Configuration("a command without a newline", SECRET, "x", "", {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "printf x"}),
    Configuration("a command that knows no shell", SECRET, "$SEED | x\n", "", {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "echo '$SEED' '|' x", "SEED": "g"}),
    Configuration("a command that fails", SECRET, REFUSED, "", {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "false"}),
    Configuration("a command wins over the file", SECRET, "c\n", "[api_auth]\njwt_secret = f\n", {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "echo c"}),
    Configuration("a command in the file", SECRET, "x\n", "[api_auth]\njwt_secret_cmd = echo x\n"),
    Configuration("a command in the file, with percents", SECRET, "a%b\n", "[api_auth]\njwt_secret_cmd = echo a%%b\n"),
    Configuration("a command in the file after a value", SECRET, "f", "[api_auth]\njwt_secret = f\njwt_secret_cmd = echo c\n"),
    Configuration("a command for what is no secret", ("api", "host"), "0.0.0.0", "", {"AIRFLOW__API__HOST_CMD": "echo x"}),
    Configuration("an old section in the file", URL, "postgresql://h/d", "[core]\nsql_alchemy_conn = postgresql://h/d\n"),
    Configuration("an old section in a variable", URL, "postgresql://h/d", "", {"AIRFLOW__CORE__SQL_ALCHEMY_CONN": "postgresql://h/d"}),
    Configuration("new before old in the file", URL, "postgresql://new/d", "[core]\nsql_alchemy_conn = postgresql://old/d\n[database]\nsql_alchemy_conn = postgresql://new/d\n"),
    Configuration("an old variable before the new file", URL, "postgresql://old/d", "[database]\nsql_alchemy_conn = postgresql://new/d\n", {"AIRFLOW__CORE__SQL_ALCHEMY_CONN": "postgresql://old/d"}),
    Configuration("an old command", URL, "postgresql://h/d\n", "", {"AIRFLOW__CORE__SQL_ALCHEMY_CONN_CMD": "echo postgresql://h/d"}),
    Configuration("an old command in the file", URL, "postgresql://h/d\n", "[core]\nsql_alchemy_conn_cmd = echo postgresql://h/d\n"),
    *(
        Configuration(f"[webserver] {old}", ("api", new), value, f"[webserver]\n{old} = {value}\n")
        for old, new, value in (
            ("web_server_host", "host", "h"), ("web_server_port", "port", "99"), ("workers", "workers", "7"),
            ("web_server_ssl_cert", "ssl_cert", "/c"), ("web_server_ssl_key", "ssl_key", "/k"),
        )
    ),
    Configuration("an old name", ("core", "num_dag_runs_to_retain_rendered_fields"), "5", "[core]\nmax_num_rendered_ti_fields_per_task = 5\n"),
]  # fmt: skip
