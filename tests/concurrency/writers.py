"""Every writer of Airflow's that changes task instances, triggers or asset queues, as the statements that it sends.

Read in Airflow 3.2.1, 3.3.2 and 3.4.0b2; where the two differ, the one that locks more stands here. A writer is one transaction:
its statements in order, then COMMIT. ``/* keep */`` marks the statement whose ids ``$1`` refers to later, ``/* at once */``
one that touches nothing that a statement of ours waits for, so that it follows the one before it at once. The rows are those
of the setups in ``tests/contract/cases``: run ``manual__1`` of Dag ``d``, the task instance that reports being ``job``.
"""

from __future__ import annotations

from dataclasses import dataclass

_RUN = "dag_id = 'd' AND run_id = 'manual__1'"
_UNFINISHED = (
    "(state IS NULL OR state IN ('queued', 'scheduled', 'running', 'restarting', 'deferred', 'up_for_retry',"
    " 'up_for_reschedule', 'awaiting_input'))"
)
# The scheduler leaves a run that somebody holds for its next round.
LOCK_RUN = f"SELECT id FROM dag_run WHERE {_RUN} FOR NO KEY UPDATE SKIP LOCKED"


def _made(run_after: str) -> str:
    """Return the insert of an asset-triggered run of ``c1``, up to the SELECT's FROM."""
    return (
        "INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, clear_number, log_template_id)"
        " SELECT 'c1', 'asset_triggered__' || (SELECT count(*) FROM dag_run), 'asset_triggered', 'queued',"
        f" {run_after}, 0, NULL"
    )


@dataclass(frozen=True)
class Writer:
    """One transaction of Airflow's.

    :param source: the module and function that sends it.
    :param skips: whether it passes over rows that somebody else holds (``SKIP LOCKED``), to come back for them later.
    :param stale: whether it writes what it decided on rows that it read without locking them; whatever happens in between
        is lost there, with Airflow's own server too, so that its outcome need not be that of either order.
    """

    name: str
    source: str
    statements: tuple[str, ...]
    skips: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Words:
    """How the writers of a revision speak of tries.

    :param live: what a condition on the task instances of a run has beyond, so that it means last tries alone.
    :param begin_all: the statements by which clear ends the tries of the task instances ``$1`` and begins others.
    :param tables: where the rows are that belong to a task instance.
    :param number: the number of a try that is scheduled.
    """

    live: str
    begin_all: tuple[str, ...]
    tables: tuple[str, ...]
    number: str = "try_number + 1"


HISTORY = Words(
    "",
    (
        "INSERT INTO task_instance_history (task_instance_id, dag_id, task_id, run_id, map_index, try_number, max_tries,"
        " pool_slots, pool, queue, task_display_name, updated_at) SELECT id, dag_id, task_id, run_id, map_index, try_number,"
        " max_tries, pool_slots, pool, queue, task_display_name, now() FROM task_instance WHERE id = ANY($1)"
        " ON CONFLICT DO NOTHING /* at once */",
        "DELETE FROM task_reschedule WHERE ti_id = ANY($1) /* at once */",
        "UPDATE task_instance SET id = gen_random_uuid(), state = CASE state WHEN 'running' THEN 'restarting' END,"
        " updated_at = now() WHERE id = ANY($1)",
    ),
    ("task_instance_history", "rendered_task_instance_fields", "xcom"),
)
_KEPT = (
    "dag_id, task_id, run_id, region_id, region_index, max_tries, pool, pool_slots, queue, hostname, unixname,"
    " task_display_name, updated_at"
)


def _archived(which: str) -> str:
    """Return the statement that ends tries as failed and inserts the next ones."""
    return (
        "WITH ended AS (UPDATE task_instance SET working_set = NULL, archived_reason = 'retry', trigger_id = NULL,"
        " state = CASE WHEN state IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN state ELSE 'failed' END,"
        f" updated_at = now() WHERE working_set AND {which} RETURNING *)"
        f" INSERT INTO task_instance (id, try_number, {_KEPT}) SELECT md5(id::text)::uuid, try_number + 1, {_KEPT} FROM ended"
    )


ROWS = Words(
    " AND working_set",
    (
        "UPDATE task_instance SET state = CASE state WHEN 'running' THEN 'restarting' END, updated_at = now()"
        " WHERE id = ANY($1) AND working_set AND state IN ('running', 'up_for_retry')",
        "SELECT id FROM task_instance WHERE id = ANY($1) FOR UPDATE",
        _archived("id = ANY($1) AND state IS NOT NULL AND state NOT IN ('running', 'restarting')"),
    ),
    ("rtif_v2", "xcom_v2", "dynamic_region", "task_instance_note"),
    number="greatest(try_number, 1)",
)


def writers(words: Words) -> tuple[Writer, ...]:
    """Return the writers of a revision."""
    of_run = f"{_RUN}{words.live}"
    return (
        Writer(
            "bulk update of the Dag version",
            "jobs/scheduler_job_runner.py: _verify_integrity_if_dag_changed",
            (LOCK_RUN, f"UPDATE task_instance SET queue = 'moved', updated_at = now() WHERE {of_run} AND {_UNFINISHED}"),
        ),
        Writer(
            "the plugin's batches",
            "scheduler_plugin: in place of the bulk update",
            (
                LOCK_RUN,
                "UPDATE task_instance SET queue = 'moved', updated_at = now() WHERE id IN"
                f" (SELECT id FROM task_instance WHERE {of_run} AND {_UNFINISHED} ORDER BY id LIMIT 4 FOR UPDATE SKIP LOCKED)",
                "UPDATE task_instance SET queue = 'moved', updated_at = now() WHERE id IN"
                f" (SELECT id FROM task_instance WHERE {of_run} AND {_UNFINISHED} AND queue <> 'moved'"
                " ORDER BY id LIMIT 4 FOR UPDATE SKIP LOCKED)",
            ),
            skips=True,
        ),
        Writer(
            "schedule_tis",
            "models/dagrun.py: schedule_tis",
            (
                LOCK_RUN,
                "UPDATE task_instance SET state = 'scheduled', scheduled_dttm = now(),"
                f" try_number = {words.number},"
                f" updated_at = now() WHERE id IN (SELECT id FROM task_instance WHERE {of_run})"
                " AND (state IS NULL OR state IN ('up_for_retry', 'up_for_reschedule'))",
            ),
        ),
        Writer(
            "critical section",
            "jobs/scheduler_job_runner.py: _executable_task_instances_to_queued",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND state = 'scheduled' FOR NO KEY UPDATE SKIP LOCKED",
                "UPDATE task_instance SET state = 'queued', queued_dttm = now(), updated_at = now()"
                f" WHERE {of_run} AND state = 'scheduled'",
            ),
            skips=True,
        ),
        Writer(
            "executor events and heartbeat-timeout purge",
            "jobs/scheduler_job_runner.py: process_executor_events, after _purge_task_instances_without_heartbeats",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND state IN ('running', 'queued')"
                " FOR NO KEY UPDATE SKIP LOCKED /* keep */",
                "UPDATE task_instance SET state = 'failed', end_date = now(), updated_at = now() WHERE id = ANY($1)",
            ),
            skips=True,
        ),
        Writer(
            "trigger time-outs",
            "jobs/scheduler_job_runner.py: check_trigger_timeouts",
            (
                "UPDATE task_instance SET state = 'scheduled', next_method = '__fail__', trigger_id = NULL,"
                " scheduled_dttm = now(), updated_at = now() WHERE state = 'deferred' AND trigger_timeout < now()",
            ),
        ),
        Writer(
            "trigger clean-up, first half",
            "models/trigger.py: clean_unused",
            (
                "UPDATE task_instance SET trigger_id = NULL, updated_at = now() WHERE state <> 'deferred' AND trigger_id IS NOT NULL",
            ),
        ),
        Writer(
            "trigger clean-up, second half",
            "models/trigger.py: clean_unused",
            (
                "DELETE FROM trigger WHERE id IN (SELECT id FROM trigger t WHERE NOT EXISTS"
                " (SELECT 1 FROM task_instance WHERE trigger_id = t.id) FOR UPDATE SKIP LOCKED)",
            ),
            skips=True,
        ),
        Writer(
            "a trigger's event",
            "models/trigger.py: submit_event",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND state = 'deferred' /* keep */",
                "UPDATE task_instance SET state = 'scheduled', trigger_id = NULL, updated_at = now() WHERE id = ANY($1)",
            ),
            stale=True,
        ),
        Writer(
            "clear",
            "models/taskinstance.py: clear_task_instances, one UPDATE a row in primary-key order",
            (
                f"SELECT id FROM task_instance WHERE {of_run} ORDER BY id /* keep */",
                *words.begin_all,
                f"UPDATE dag_run SET clear_number = clear_number + 1, queued_at = now() WHERE {_RUN} /* at once */",
            ),
            stale=True,
        ),
        Writer(
            "mark success",
            "api/common/mark_tasks.py: set_state",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND (state IS NULL OR state <> 'success') FOR UPDATE /* keep */",
                "UPDATE task_instance SET state = 'success', end_date = now(), updated_at = now() WHERE id = ANY($1)",
            ),
        ),
        Writer(
            "mark the run failed",
            "api/common/mark_tasks.py: _set_dag_run_terminal_state",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND state = 'running' /* keep */",
                f"UPDATE task_instance SET state = 'skipped', updated_at = now() WHERE {of_run} AND (state IS NULL OR"
                " state IN ('scheduled', 'queued', 'up_for_retry'))",
                f"UPDATE dag_run SET state = 'failed' WHERE {_RUN} /* at once */",
                "UPDATE task_instance SET state = 'failed', end_date = now(), updated_at = now() WHERE id = ANY($1)",
            ),
            stale=True,
        ),
        Writer(
            "a Dag that is gone",
            "jobs/scheduler_job_runner.py: _executable_task_instances_to_queued",
            ("UPDATE task_instance SET state = 'failed', updated_at = now() WHERE dag_id = 'd' AND state = 'scheduled'",),
        ),
        Writer(
            "orphans",
            "jobs/scheduler_job_runner.py: adopt_or_reset_orphaned_tasks",
            (
                f"SELECT id FROM task_instance WHERE {of_run} AND state IN ('scheduled', 'queued', 'running')"
                " FOR NO KEY UPDATE SKIP LOCKED /* keep */",
                "UPDATE task_instance SET state = NULL, updated_at = now() WHERE id = ANY($1)",
            ),
            skips=True,
        ),
        Writer(
            "a run is deleted",
            "models/dagrun.py: DELETE of a Dag run, its task instances with it",
            (f"DELETE FROM task_instance WHERE {_RUN}",),
        ),
        Writer(
            "asset-triggered runs",
            "jobs/scheduler_job_runner.py: _create_dag_runs_asset_triggered",
            (
                "SELECT asset_id AS id FROM asset_dag_run_queue WHERE target_dag_id = 'c1' ORDER BY created_at DESC"
                " FOR UPDATE SKIP LOCKED /* keep */",
                f"WITH made AS ({_made('max(created_at)')} FROM asset_dag_run_queue WHERE target_dag_id = 'c1' AND asset_id = ANY($1)"
                " HAVING count(*) > 0 RETURNING id, run_after)"
                " INSERT INTO dagrun_asset_event (dag_run_id, event_id) SELECT made.id, e.id FROM made, asset_event e"
                " WHERE e.asset_id IN (SELECT asset_id FROM dag_schedule_asset_reference WHERE dag_id = 'c1')"
                " AND e.timestamp <= made.run_after AND e.timestamp > coalesce((SELECT max(run_after) FROM dag_run"
                " WHERE dag_id = 'c1' AND run_type = 'asset_triggered' AND run_after < made.run_after), '-infinity')",
                "DELETE FROM asset_dag_run_queue WHERE target_dag_id = 'c1' AND asset_id = ANY($1)",
            ),
            skips=True,
        ),
        Writer(
            "runs of partitions",
            "jobs/scheduler_job_runner.py: _create_dagruns_for_partitioned_asset_dags, of 3.3; 3.2 locks nothing first",
            (
                "SELECT id FROM asset_partition_dag_run WHERE created_dag_run_id IS NULL ORDER BY created_at, id"
                " FOR UPDATE SKIP LOCKED /* keep */",
                f"WITH made AS ({_made('now()')} FROM asset_partition_dag_run WHERE id = ANY($1) HAVING count(*) > 0 RETURNING id)"
                " INSERT INTO dagrun_asset_event (dag_run_id, event_id) SELECT made.id, asset_event_id"
                " FROM made, partitioned_asset_key_log WHERE asset_partition_dag_run_id = ANY($1)",
                "UPDATE asset_partition_dag_run SET created_dag_run_id = (SELECT max(id) FROM dag_run WHERE dag_id = 'c1')"
                " WHERE id = ANY($1)",
            ),
            skips=True,
        ),
        Writer(
            "another success, in another order",
            "assets/manager.py: _queue_dagruns, in the order of a set",
            (
                "INSERT INTO asset_dag_run_queue (asset_id, target_dag_id, created_at) VALUES (1, 'c2', now()) ON CONFLICT DO NOTHING",
                "INSERT INTO asset_dag_run_queue (asset_id, target_dag_id, created_at) VALUES (1, 'c1', now()) ON CONFLICT DO NOTHING",
            ),
        ),
        Writer(
            "values that expired",
            "state/metastore.py: cleanup",
            ("DELETE FROM task_state_store WHERE expires_at < now()",),
        ),
        Writer(
            "a run is deleted, its values first",
            "models/dagrun.py: DELETE of a Dag run, what belongs to it with it, in an order that is PostgreSQL's own",
            (f"DELETE FROM task_state_store WHERE {_RUN}", f"DELETE FROM task_instance WHERE {_RUN}"),
        ),
    )


# Those of Airflow 3.4 alone: the run is locked first, and what refers to it waits.
_LOCK_RUN_FIRST = f"SELECT id FROM dag_run WHERE {_RUN} FOR UPDATE"
SINCE_3_4 = (
    Writer(
        "a cleared task instance has ended",
        "api_fastapi/execution_api/routes/task_instances.py: ti_update_state, and the heartbeat-timeout purge",
        (
            _LOCK_RUN_FIRST,
            f"SELECT id FROM task_instance WHERE {_RUN} AND working_set AND state = 'restarting' FOR UPDATE /* keep */",
            _archived("id = ANY($1)"),
        ),
    ),
    Writer(
        "a run is locked, then its task instances",
        "models/dagrun.py: lock_dag_runs, before clear, a loop's next pass and the scheduler's expansion",
        (
            _LOCK_RUN_FIRST,
            f"SELECT id FROM task_instance WHERE {_RUN} AND working_set ORDER BY id FOR UPDATE /* keep */",
            "UPDATE task_instance SET queue = 'moved', updated_at = now() WHERE id = ANY($1)",
        ),
    ),
)
# What 3.4 has otherwise: a row of the queue names its event, so no two successes write the same one.
OF_QUEUES = (
    Writer(
        "asset-triggered runs",
        "jobs/scheduler_job_runner.py: _create_dag_runs_asset_triggered",
        (
            "SELECT asset_event_id AS id FROM asset_dag_run_queue WHERE target_dag_id = 'c1' FOR UPDATE SKIP LOCKED /* keep */",
            f"WITH made AS ({_made('now()')} FROM asset_dag_run_queue WHERE target_dag_id = 'c1' AND asset_event_id = ANY($1)"
            " HAVING count(*) > 0 RETURNING id)"
            " INSERT INTO dagrun_asset_event (dag_run_id, event_id) SELECT made.id, e.id FROM made, asset_event e"
            " WHERE e.id = ANY($1)",
            "DELETE FROM asset_dag_run_queue WHERE target_dag_id = 'c1' AND asset_event_id = ANY($1)",
        ),
        skips=True,
    ),
)
BEFORE_3_4 = ("asset-triggered runs", "another success, in another order")
WRITERS = {
    "3.3": writers(HISTORY),
    "3.4": (*(writer for writer in writers(ROWS) if writer.name not in BEFORE_3_4), *OF_QUEUES, *SINCE_3_4),
}
WORDS = {"3.3": HISTORY, "3.4": ROWS}
