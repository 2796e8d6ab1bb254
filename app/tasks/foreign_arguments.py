"""What a task in another language is called with: its Dag has a stub for it, which says where each argument is."""

from __future__ import annotations

from typing import Any

import structlog
from pydantic import ValidationError

from app.db import dags
from app.db.session import Session
from app.db.tables import AnyRow
from app.schemas.task_instances import arguments_of
from app.tasks.transitions import Refuse

log = structlog.get_logger(__name__)

STUB = "_StubOperator"  # the class of the tasks that stand in a Dag for one in another language
INVALID = Refuse(
    500,
    {
        "reason": "invalid_arg_bindings",
        "message": "The serialized TaskFlow arg spec for this stub task is not valid.",
    },
)


async def of_task(session: Session, *, row: AnyRow) -> list[dict[str, Any]] | Refuse | None:
    """Return the arguments of a task that starts, if it is in another language and has some.

    :param row: the task instance as it was seen; of all others nothing more is read.
    """
    if row.operator != STUB:
        return None
    task = await dags.task_of_version(session, version=row.dag_version_id, task_id=row.task_id)
    try:
        return arguments_of(task or {})
    except ValidationError as error:
        places = ["/".join(map(str, each["loc"])) for each in error.errors(include_input=False)]
        log.error("the arguments of a task in another language are not valid", ti_id=str(row.id), places=places)
        return INVALID
