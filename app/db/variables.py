"""Variables, as stored."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, String, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from app.db.filtered import Filtered
from app.db.session import Session
from app.db.tables import AnyRow, variable

_visible = (
    variable.c.key == bindparam("name"),
    or_(variable.c.team_name == bindparam("team"), variable.c.team_name.is_(None)),
)
_BY_KEY = select(variable.c.val, variable.c.is_encrypted).where(*_visible).limit(1)
_DELETE = delete(variable).where(*_visible)
_insert = insert(variable)
_renewed = {name: _insert.excluded[name] for name in ("val", "description", "is_encrypted")}
_PUT = _insert.on_conflict_do_update(index_elements=["key"], set_=_renewed)
_PUT_WITH_TEAM = _insert.on_conflict_do_update(
    index_elements=["key"], set_={**_renewed, "team_name": _insert.excluded.team_name}
)


async def get(session: Session, *, key: str, team_name: str | None) -> AnyRow | None:
    """Return the stored value and whether it is encrypted; the team's own, or one that belongs to no team."""
    return (await session.execute(_BY_KEY, {"name": key, "team": team_name})).one_or_none()


async def put(
    session: Session,
    *,
    key: str,
    value: str,
    is_encrypted: bool,
    description: str | None,
    team_name: str | None,
    keeps_team: bool,
) -> None:
    """Set a variable in one statement.

    :param keeps_team: whether one that is there stays its team's.
    """
    values = {"key": key, "val": value, "is_encrypted": is_encrypted, "description": description, "team_name": team_name}
    await session.execute(_PUT if keeps_team else _PUT_WITH_TEAM, values)


async def remove(session: Session, *, key: str, team_name: str | None) -> None:
    """Delete a variable that is visible to the team, if there is one."""
    await session.execute(_DELETE, {"name": key, "team": team_name})


_filters = {
    "prefix": func.starts_with(variable.c.key, bindparam("prefix", type_=String)),
    "team": variable.c.team_name == bindparam("team"),
}
_COUNT = Filtered(select(func.count()).select_from(variable), **_filters)
_page = select(variable.c.key).order_by(variable.c.key)
_PAGE = Filtered(_page.offset(bindparam("skipped", type_=BigInteger)).limit(bindparam("most", type_=BigInteger)), **_filters)


async def keys(
    session: Session, *, prefix: str | None, team_name: str | None, limit: int, offset: int
) -> tuple[Sequence[str], int]:
    """Return a page of the stored variables' keys, in order, and how many there are in all.

    :param team_name: only those of this team.
    """
    counting, given = _COUNT.by(prefix=prefix or "", team=team_name)
    total = await session.scalar(counting, given) or 0
    paging, given = _PAGE.by(prefix=prefix or "", team=team_name)
    return list(await session.scalars(paging, {**given, "skipped": offset, "most": limit})), total
