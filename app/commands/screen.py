"""How ``execution-api top`` looks: a reading becomes lines of text, and lines a terminal's screen.

Names are anybody's to make, so nothing but printable characters is ever sent to a terminal.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from app.commands.counting import number_of
from app.commands.readings import Reading, Tasks
from app.db.components import CUT
from app.db.holders import Held, Session

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own without a cursor; back to what was there
HOME, TO_END_OF_LINE, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
STYLES = {"bold": "\x1b[1m", "dim": "\x1b[2m", "bad": "\x1b[1;31m", "warn": "\x1b[33m", "good": "\x1b[32m"}
PLAIN = "\x1b[0m"
OPERATIONS, WAITING = 6, 3  # as many are shown where the screen has an end: of a service, and of those that wait for a row
LEAST = 8  # lines for a holder and what it holds
TALL = 24  # lines of a screen that has room for operations beside what is held

Part = tuple[str, str]  # a style, empty for none, and text in it
Line = list[Part]


def lines(
    reading: Reading, before: Reading | None, *, width: int | None, height: int | None = None, colours: bool = False
) -> list[str]:
    """Return a reading as lines of a terminal.

    :param before: the reading before it: what is counted is told by the second then.
    :param width: columns; None for as many as a line takes.
    :param height: lines; None for as many as there are.
    """
    head = [*_head(reading), *_service(reading, before), []]
    operations = _operations(reading, before, None if height is None else OPERATIONS)
    if height is None:
        shown = [*head, *_held(reading, None), *operations]
    else:
        operations = operations if height >= TALL else []
        shown = [*head, *_held(reading, height - len(head) - len(operations)), *operations]
    return [_drawn(line, width, colours) for line in shown[:height]]


def has_colours(output: TextIO) -> bool:
    """Whether colours are seen, and wanted (https://no-color.org)."""
    return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def taken(output: TextIO) -> Iterator[Callable[[Sequence[str]], None]]:
    """Take a terminal's screen until the block ends, and give back what was on it; yield what shows lines."""

    def show(shown: Sequence[str]) -> None:
        output.write(HOME + "\r\n".join(f"{line}{TO_END_OF_LINE}" for line in shown) + TO_END)
        output.flush()

    output.write(ENTER)
    try:
        yield show
    finally:
        output.write(LEAVE)
        output.flush()


def _head(reading: Reading) -> Iterator[Line]:
    yield [
        ("bold", "execution-api top"),
        ("", f"  {reading.database}  {reading.at.astimezone():%H:%M:%S}"),
    ]
    for trouble in reading.troubles:
        yield [("bad", "! "), ("warn", trouble)]
    yield []
    if tasks := reading.tasks:
        yield [
            ("dim", "tasks     "),
            ("bold", f"{tasks.running}"),
            ("", f" running  {tasks.queued} queued  "),
            *_lateness(tasks),
        ]


def _lateness(tasks: Tasks) -> Line:
    told = f" late (after {_time(tasks.heartbeat_timeout / 2)}; ended after {_time(tasks.heartbeat_timeout)})"
    longest = "" if tasks.longest_silence is None else f"  longest silence {_time(tasks.longest_silence)}"
    return [
        ("bad" if tasks.late else "good", number_of(tasks.late, "heartbeat")),
        ("bad" if tasks.late else "", told),
        ("", longest),
    ]


def _service(reading: Reading, before: Reading | None) -> Iterator[Line]:
    now = reading.service
    if now is None:
        return
    unit, rates = _counting(reading, before)
    yield [
        ("dim", "service   "),
        ("", f"{number_of(now.in_flight, 'request')} in flight  {number_of(now.connections, 'connection')} used  "),
        *_counts("at the door", now.at_the_door),
        *_counts("waiting for a connection", now.waiting),
    ]
    yield [
        ("dim", "          "),
        *_counts("met a lock and came back", rates("came_back"), unit),
        *_counts("503", rates("unavailable"), unit, style="bad"),
    ]


def _operations(reading: Reading, before: Reading | None, most: int | None) -> list[Line]:
    """Return which operations are asked for, the busiest first."""
    if reading.service is None:
        return []
    unit, rates = _counting(reading, before)
    requests, failed = rates("requests"), rates("failed")
    busiest = sorted(requests, key=lambda operation: (-requests[operation], operation))
    shown: list[Line] = [[], [("dim", f"{'requests' + unit:>12}{'5xx' + unit:>10}  operation")]]
    for operation in busiest[:most]:
        bad = failed.get(operation, 0.0)
        numbers = ("", f"{_number(requests[operation]):>12}"), ("bad" if bad else "dim", f"{_number(bad):>10}")
        shown.append([*numbers, ("", f"  {operation}")])
    if more := len(busiest[most:] if most else ()):
        shown.append([("dim", f"{'':>22}  and {more} more")])
    return shown


def _counting(reading: Reading, before: Reading | None) -> tuple[str, Callable[[str], dict[str, float]]]:
    """Return a unit, and what tells in it what was counted: by the second if there is a reading before."""
    now, was = reading.service, before and before.service
    seconds = (reading.at - before.at).total_seconds() if before else 0.0
    if was is None or seconds <= 0:
        return "", lambda field: dict(getattr(now, field))

    def rates(field: str) -> dict[str, float]:
        earlier = getattr(was, field)  # more than now, if the service was started anew
        return {key: max(0.0, value - earlier.get(key, 0.0)) / seconds for key, value in getattr(now, field).items()}

    return "/s", rates


def _held(reading: Reading, room: int | None) -> list[Line]:
    """Return who holds what, by holder: as many as there is room for, and how many there are beside."""
    if reading.picture is None:
        return []
    held = reading.picture.held
    if not held:
        return [[("good", "nobody holds what others need")]]
    waiting = sum(len(each.waiting) for each in held)
    shown: list[Line] = [[("bold", f"held: {len(held)}"), ("", f"  waiting in PostgreSQL: {waiting}")]]
    by_holders = defaultdict[tuple[int, ...], list[Held]](list)
    for each in held:
        by_holders[tuple(holder.pid for holder in each.holders)].append(each)
    each_has = None if room is None else max(LEAST, (room - 1) // len(by_holders))
    blocks = [_block(each, each_has) for each in by_holders.values()]
    for number, block in enumerate(blocks):
        if room is not None and number and len(shown) + len(block) + 1 > room:
            more = len(blocks) - number
            return [*shown[: room - 1], [("dim", f"and {number_of(more, 'more holder')}")]]
        shown += block
    return shown if room is None else shown[: max(0, room)]


def _block(held: Sequence[Held], room: int | None) -> list[Line]:
    """Return who holds some rows, and as many of these as there is room for: one at least."""
    shown: list[Line] = [[]]
    for holder in held[0].holders:
        open_for = "" if holder.in_transaction is None else f"  transaction of {_time(holder.in_transaction)}"
        told = ("bold", f"  holds {len(held)}"), ("", f"{open_for}  {_who(holder)}"), *_state(holder)
        shown.append([("warn", str(holder.component)), *told])
        shown.append([("dim", f"  {holder.statement or 'its statement is not known'}")])
    if not held[0].holders:
        shown.append([("warn", "nobody any more"), ("", "  it was let go while this was read")])
    for number, each in enumerate(held):
        row = _row(each, None if room is None else WAITING)
        if room is not None and number and len(shown) + len(row) + 1 > room:
            return [*shown, [("dim", f"    and {len(held) - number} more")]]
        shown += row
    return shown


def _row(held: Held, most: int | None) -> list[Line]:
    """Return what is held, and who waits for it."""
    shown: list[Line] = [[("", f"    {_what(held)}"), *_name(held.row)]]
    for session in held.waiting[:most]:
        waits = "" if session.waits is None else f" {_time(session.waits)}"
        who = ("bold", str(session.component)), ("", f"  {_who(session)}  "), ("dim", session.statement)
        shown.append([("", f"      waits{waits}  "), *who])
    if more := len(held.waiting[most:] if most else ()):
        shown.append([("dim", f"      and {more} more waiting")])
    if not held.waiting:
        shown.append([("dim", "      nobody waits in PostgreSQL; requests that need it come back to it")])
    return shown


def _who(session: Session) -> str:
    application = f"  {session.application}" if session.application else ""
    role = "" if session.role is None else f"  {session.role}@{session.client or 'local'}"
    return f"pid {session.pid}{role}{application}"


def _state(session: Session) -> Line:
    idle = "" if session.idle is None else f" for {_time(session.idle)}"
    return [("bad" if session.idle else "", f"  {session.state}{idle}")] if session.state else []


def _what(held: Held) -> str:
    return held.kind if held.table is None else held.table if held.kind == "row" else f"{held.kind} {held.table}"


def _name(row: Mapping[str, Any]) -> Line:
    """Return by what a row is known: first what a person calls it."""
    names = [str(row[key]) for key in ("dag_id", "task_id") if row.get(key) is not None]
    index = row.get("map_index")
    told = " / ".join(names) + (f" [{index}]" if index is not None and index >= 0 else "")
    rest = {key: value for key, value in row.items() if key not in {"dag_id", "task_id", "map_index"} and value is not None}
    return [("bold", f"  {told}" if told else ""), ("", "".join(f"  {key} {value}" for key, value in rest.items()))]


def _counts(name: str, counts: Mapping[str, float], unit: str = "", *, style: str = "warn") -> Line:
    some = [f"{_number(value)}{unit} {key}" for key, value in counts.items() if value]
    return [("dim", f"{name} "), (style if some else "", f"{', '.join(some) or 0}  ")]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _time(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _drawn(line: Line, width: int | None, colours: bool) -> str:
    """Return a line that is no wider than the terminal, without anything in it that is not printable."""
    drawn, left = "", width
    for style, text in line:
        shown = "".join(each if each.isprintable() else "?" for each in text)
        if left is not None:
            shown, left = _cut(shown, left)
        drawn += f"{STYLES[style]}{shown}{PLAIN}" if colours and style and shown else shown
    return drawn.rstrip() if not colours else drawn


def _cut(text: str, width: int) -> tuple[str, int]:
    """Return what of a text fits into some columns, and how many are left."""
    columns = 0
    for number, each in enumerate(text):
        columns += 0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        if columns > width or (columns == width and number + 1 < len(text)):
            return (text[:number] + CUT if width else ""), 0
    return text, width - columns
