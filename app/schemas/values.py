"""What a value must be so that it can be stored, and read again by whoever reads the row: a type for each kind.

The released documents do not tell these bounds, so they are validators and no schema. What is refused here is named by its
field and written nowhere; what would be refused only by PostgreSQL, or by no one until the scheduler reads it, is too late.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AwareDatetime, JsonValue, SkipValidation

DEEPEST = 255  # levels of JSON; pydantic ends there, so Airflow's server too, and Python's decoder some hundreds further
TOO_DEEP = f"must not be nested deeper than {DEEPEST} levels"
LABEL_LENGTH = 250  # characters of task_instance.rendered_map_index; no label is worth a state that is not recorded
NUL = "\0"  # PostgreSQL's text and jsonb cannot hold it; its json, which is text that it checked, keeps the escape

_TINY = re.compile(rb"[eE]-\d{3}")  # an exponent that may be below a double's


def within(low: int, high: int) -> AfterValidator:
    """Return a bound on a whole number."""

    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}")
        return number

    return AfterValidator(check)


def text(longest: int | None = None) -> AfterValidator:
    """Return what refuses text that a column cannot hold.

    :param longest: characters that the column takes; None for any number.
    """

    def check(value: str) -> str:
        _check_text(value)
        if longest is not None and len(value) > longest:
            raise ValueError(f"must have at most {longest} characters, not {len(value)}")
        return value

    return AfterValidator(check)


def bytes_within(longest: int) -> AfterValidator:
    """Return a bound on the bytes that a text has in UTF-8."""

    def check(value: str) -> str:
        if len(value.encode()) > longest:
            raise ValueError(f"must have at most {longest} bytes in UTF-8")
        return value

    return AfterValidator(check)


def _check_text(value: str) -> None:
    _check_encodable(value)
    if NUL in value:
        raise ValueError("must not contain NUL characters")


def _check_encodable(value: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must not contain lone surrogates, which UTF-8 cannot encode") from None


def _encodable(value: str) -> str:
    _check_encodable(value)
    return value


def _check_json(value: Any, *, nul: bool = True, surrogates: bool = False) -> None:
    """Refuse JSON that cannot be stored or read again, level by level, so that depth costs no stack.

    :param nul: whether its texts may contain NUL.
    :param surrogates: whether they may contain lone surrogates, which are escapes as long as nobody reads them.
    """
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind is str:
                if not surrogates:
                    _check_encodable(each)
                if not nul and NUL in each:
                    raise ValueError("must not contain NUL characters")
            elif kind is dict:
                below += each
                below += each.values()
            elif kind is list:
                below += each
            elif kind is float and not math.isfinite(each):
                raise ValueError("must hold finite numbers only: JSON has no NaN and no infinities")
        if not below:
            return
        level = below
    raise ValueError(TOO_DEEP)


def _jsonb(value: Any) -> Any:
    _check_json(value, nul=False)
    return value


def _json(value: Any) -> Any:
    _check_json(value)
    return value


def _shown(value: Any) -> Any:
    _check_json(value, surrogates=True)
    return value


def json_text(body: bytes) -> str:
    """Return JSON as the text to store in a ``jsonb`` column: exactly what came, once it is known that it can be stored.

    Only where a number is too small for a double it is written anew, as Airflow stores it: PostgreSQL would make 16,385
    digits of the eight bytes ``1e-16383``.

    :raises ValueError: when it is not JSON, or JSON that cannot be stored or read again; ``json.JSONDecodeError`` where a
        place can be told.
    """
    try:
        value = orjson.loads(body)  # no NaN, no infinity, no lone surrogate; but whole numbers of any size are data
        deep = body.count(b"[") + body.count(b"{") > DEEPEST and not _is_shallow(value)
        if not (deep or rb"\u0000" in body or _TINY.search(body)):
            return body.decode()
    except orjson.JSONDecodeError:
        pass
    found = body.decode()
    try:
        value = json.loads(found, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_json(value, nul=False)
    return json.dumps(value, ensure_ascii=False) if _TINY.search(body) else found


def _is_shallow(value: Any) -> bool:
    """Say whether a decoded value ends well above the deepest level: the encoder goes 254 levels down, and is fast."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def utc(moment: datetime) -> datetime:
    """Return a moment in UTC.

    :raises ValueError: when that leaves the calendar, which ends with the years 1 and 9999.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999 once it is converted to UTC") from None


def _possible_tasks(tasks: list[Any]) -> list[Any]:
    """Return tasks by id, or id and map index, without those whose index no task instance can have."""
    possible = []
    for task in tasks:
        task_id, map_index = task if isinstance(task, tuple) else (task, -1)
        _check_text(task_id)
        if -(2**31) <= map_index < 2**31:
            possible.append(task)
    return possible


def _possible_pid(pid: int) -> int | None:
    """Return the number of a process, or None for one that no row can have, so that it is nobody's."""
    return pid if -(2**31) <= pid < 2**31 else None


def _near(moment: datetime) -> datetime:
    if abs(moment - datetime.now(UTC)) >= timedelta(seconds=2**31):
        raise ValueError("must be within 68 years of now: its distance is stored as a number of seconds below 2**31")
    return moment


def _span(span: timedelta) -> timedelta:
    try:
        datetime.now(UTC) + span
    except OverflowError:
        raise ValueError("must end in the years 1 to 9999 when it is counted from now") from None
    return span


def _seconds(seconds: float) -> float:
    try:
        _span(timedelta(seconds=seconds))
    except (OverflowError, ValueError):  # not finite, more than any timedelta, or out of the calendar
        raise ValueError("must be seconds that end in the years 1 to 9999 when they are counted from now") from None
    return seconds


Integer = Annotated[int, within(-(2**31), 2**31 - 1)]  # what PostgreSQL's integer columns take
Pid = Annotated[int, AfterValidator(_possible_pid)]  # to be compared with such a column
BigInteger = Annotated[int, within(-(2**63), 2**63 - 1)]  # and its bigint, as LIMIT and OFFSET are
Text = Annotated[str, text()]
Encodable = Annotated[str, AfterValidator(_encodable)]  # for what is encrypted, or a text inside JSON
Label = Annotated[Text, AfterValidator(lambda label: label[:LABEL_LENGTH])]
UtcDateTime = Annotated[AwareDatetime, AfterValidator(utc)]
Tasks = Annotated[list[str | tuple[str, int]], AfterValidator(_possible_tasks)]
Near = Annotated[UtcDateTime, AfterValidator(_near)]  # a moment whose distance from now is stored
Span = Annotated[timedelta, AfterValidator(_span)]  # a wait, from now on
Seconds = Annotated[float, AfterValidator(_seconds)]  # the same, as a number
# JSON for columns of the two kinds that PostgreSQL has, and for what is only shown; the released documents tell its values'
# type in some places, in others nothing.
Json = Annotated[SkipValidation[JsonValue], AfterValidator(_json)]
ShownValues = Annotated[dict[str, SkipValidation[JsonValue]], AfterValidator(_shown)]
JsonbValues = Annotated[dict[str, SkipValidation[JsonValue]], AfterValidator(_jsonb)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]
JsonbObject = Annotated[dict[str, Any], AfterValidator(_jsonb)]
JsonObjects = Annotated[list[dict[str, Any]], AfterValidator(_json)]
JsonTexts = Annotated[list[str], AfterValidator(_json)]
