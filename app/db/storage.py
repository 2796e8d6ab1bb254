"""What a release stores in a way of its own: its tables and the statements about them, made once."""

from __future__ import annotations

from app.db.asset_events import AssetEvents
from app.db.audit import AuditLog
from app.db.connection_tests import ConnectionTests
from app.db.partitions import Partitions
from app.db.regions import Regions
from app.db.rendered_fields import RenderedFields
from app.db.schema import Schema
from app.db.siblings import Siblings
from app.db.state_store import AssetStateStore, TaskStateStore
from app.db.task_instance_queries import TaskInstanceQueries
from app.db.task_instances import TaskInstances
from app.db.tries import Tries
from app.db.triggers import Triggers
from app.db.xcoms import XComs


class Storage:
    """The storage of a release: the parts that it says, and the others, which follow from its schema.

    :param schema: its tables and their columns.
    :param tries: how it keeps tries.
    :param xcoms: how it keeps what tasks return and push.
    :param rendered_fields: how it keeps template fields.
    :param regions: where it places mapped tasks.
    :param asset_events: how it queues Dags for events; None: once, whichever they are.
    """

    def __init__(
        self,
        schema: Schema,
        tries: Tries,
        xcoms: XComs,
        rendered_fields: RenderedFields,
        regions: Regions | None = None,
        *,
        asset_events: AssetEvents | None = None,
    ) -> None:
        self.schema = schema
        self.tries = tries
        self.xcoms = xcoms
        self.rendered_fields = rendered_fields
        self.regions = regions or Regions()
        self.audit = AuditLog(schema)
        self.asset_events = asset_events or AssetEvents(schema)
        self.connection_tests = ConnectionTests(schema)
        self.task_instances = TaskInstances(schema, tries, xcoms, self.audit, self.regions)
        self.siblings = Siblings(schema, tries, self.audit)
        self.queries = TaskInstanceQueries(schema, tries)
        self.task_state_store = TaskStateStore(schema, tries)
        self.asset_state_store = AssetStateStore(schema, tries)
        self.triggers = Triggers(schema)
        self.partitions = Partitions(schema)
