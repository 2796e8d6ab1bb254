"""What a supported revision of Airflow's metadata database says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from app.db.storage import Storage


@dataclass(frozen=True, slots=True)
class Tasks:
    """How a release takes what workers report.

    :param start_with_workload_tokens: whether ``/run`` takes a token of scope ``workload`` and swaps it.
    :param archived_rtif_is_gone: whether rendered fields for an archived try are refused with 410 instead of 404.
    :param resume_tells_start: whether a task that resumes from a deferral is told when it first started.
    :param state_stores: whether tasks and assets have state stores.
    :param cleared_end_first: whether a task instance that is cleared while it runs stays the same try until its process is
        known to be dead: such a process must not start it, and who ended it tells.
    :param starts_tell_wait: whether StatsD is told how long a task that starts was queued.
    :param reschedules_by_time: whether a task's first reschedule is that which began first; else the first that was written.
    :param bare_ids_skip_all: whether a task to skip that is named without a map index means all of its instances.
    """

    start_with_workload_tokens: bool = True
    archived_rtif_is_gone: bool = True
    resume_tells_start: bool = True
    state_stores: bool = True
    cleared_end_first: bool = True
    starts_tell_wait: bool = True
    bare_ids_skip_all: bool = True
    reschedules_by_time: bool = True


@dataclass(frozen=True, slots=True)
class Runs:
    """How a release makes and clears the runs that tasks ask for.

    :param triggered_type: the type of the runs that tasks trigger.
    :param inherit_user: whether they are told to be triggered by whoever triggered the run of the task.
    :param ids_without_double_dots: whether the id of a run that is made must not hold ``..``.
    :param conf_tells_span_detail: whether a run's conf may ask for more spans of its tasks.
    :param conf_tells_trace: whether it may put the run into a trace that there is, and say whether it is sampled.
    :param sampled_flag: the W3C trace flags of runs that are made, without an opinion of a tracer.
    :param clearing_may_move_versions: whether a run that is cleared may move to its Dag's newest version.
    :param moving_verifies: whether a cleared run that moves to another version has its task instances at once, whatever its
        state; else one that is over.
    :param empty_maps_are_skipped: whether a task that is mapped over nothing, and waits for nothing, is skipped at once.
    :param intervals_have_length: whether a cron's interval that a change of clocks leaves without length gives way to the
        one before it.
    :param conf_is_plain: whether a run's conf must not hold keys to which serialization gives a meaning.
    """

    triggered_type: str = "operator_triggered"
    inherit_user: bool = True
    ids_without_double_dots: bool = True
    conf_tells_span_detail: bool = True
    conf_tells_trace: bool = True
    sampled_flag: str = "00"
    clearing_may_move_versions: bool = True
    moving_verifies: bool = True
    empty_maps_are_skipped: bool = True
    conf_is_plain: bool = True
    intervals_have_length: bool = True


@dataclass(frozen=True, slots=True)
class XComs:
    """How a release takes what tasks push.

    :param of_tries: whether it belongs to a try. Then who pushes for a task instance that does not exist is told so, only
        what a task returns may have a length over which others are mapped, and the keys of what gates tell are reserved.
    """

    of_tries: bool = True


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How a release promises when a run will be over.

    :param average_of_successes: whether deadlines by average runtime look at successful runs only.
    :param callbacks_have_bundles: whether the callbacks of deadlines name their Dag's bundle.
    :param callbacks_stay_encoded: whether their arguments stay as the Dag's file has them, for who calls them to decode.
    :param bad_ones_are_left_out: whether a run is made without the deadlines that nobody can compute.
    """

    average_of_successes: bool = True
    callbacks_have_bundles: bool = True
    callbacks_stay_encoded: bool = True
    bad_ones_are_left_out: bool = True


@dataclass(frozen=True, slots=True)
class Assets:
    """How a release takes the events of assets.

    :param event_per_emission: whether a task may emit several events, each with its own partition key, for one asset.
    :param partitions_have_dates: whether a run is told which day its partition stands for, and keys are bounded in number.
    """

    event_per_emission: bool = True
    partitions_have_dates: bool = True


@dataclass(frozen=True, slots=True)
class Teams:
    """What a release keeps apart by team, in multi-team mode.

    :param own_xcoms: whether XComs are.
    :param own_assets: whether producers and consumers of an asset say for which teams they are.
    :param keep_variables: whether a variable that is set again stays its team's, whoever sets it.
    """

    own_xcoms: bool = True
    own_assets: bool = True
    keep_variables: bool = True


@dataclass(frozen=True, slots=True)
class Revision:
    """One supported revision of Airflow's metadata database.

    What differs between releases is said here, by subject; what is not said is as in Airflow 3.4.

    :param name: the Airflow minor release that made it.
    :param alembic_version: ``alembic_version.version_num`` of a database at this revision.
    :param newest_api_date: the newest API date that Airflow's own server of this revision serves.
    :param is_preview: whether it is served only to who asks for it: not all that it does is known to be as there.
    :param storage: its tables, and how it keeps tries, XComs and rendered fields.
    """

    name: str
    alembic_version: str
    newest_api_date: str
    storage: Storage
    tasks: Tasks = Tasks()
    runs: Runs = Runs()
    deadlines: Deadlines = Deadlines()
    xcoms: XComs = XComs()
    assets: Assets = Assets()
    teams: Teams = Teams()
    is_preview: bool = False
