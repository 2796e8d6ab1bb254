"""The params of a Dag, against which a triggered run's conf is validated.

Run as a program it does so in a process of its own: a ``pattern`` is a regular expression of the Dag's author, it can take
longer than the universe lasts, and while Python's ``re`` searches no other thread of its process runs (decision 21). Nor
can a thread be ended that follows references for as long.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from app.dags.base_serialization import decoded

CPU_SECONDS = 2  # of the process of its own: whole seconds, as setrlimit takes them
# Keywords whose validation may take any time: regular expressions, definitions that refer to each other, pairs of items.
UNBOUNDED = ("pattern", "patternProperties", "$ref", "$dynamicRef", "$recursiveRef", "uniqueItems")

Params = Sequence[tuple[str, Mapping[str, Any]]]


def invalid(params: Params, conf: Mapping[str, Any]) -> str | None:
    """Say which of a Dag's params a run's conf makes invalid, and why; None when all are valid.

    Nothing is fetched: a reference to what is neither in the schema nor one of JSON Schema's own documents is an error.

    :param params: as they are serialized; a value of the conf takes the whole place of a param's default.
    """
    import jsonschema  # megabytes, and a part of every start, for what few requests ask
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    for name, param in params:
        value, schema = decoded(param.get("default")), decoded(param.get("schema")) or {}
        if name in conf:
            value = conf[name]
        elif isinstance(value, dict) and value.get("__type") == "arg_not_set":
            return f"Invalid input for param {name}: No value passed"
        try:
            jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker(), registry=REGISTRY)
        except (jsonschema.ValidationError, jsonschema.SchemaError) as error:
            return f"Invalid input for param {name}: {error.message}"
        except Unresolvable as error:
            return f"Invalid input for param {name}: its schema refers to {error.ref!r}, which is not part of it"
        except RecursionError:
            return f"Invalid input for param {name}: its schema refers to itself without an end"
    return None


def may_take_any_time(params: Params) -> bool:
    """Say whether validating these can take longer than a schema and a conf of their size usually do."""
    return any(_mentions(param.get("schema"), UNBOUNDED) for _, param in params)


def _mentions(schema: Any, keywords: Sequence[str]) -> bool:
    """Say whether a keyword is anywhere in a schema; that a property may be named like one costs only a process."""
    if isinstance(schema, Mapping):
        return any(name in keywords or _mentions(value, keywords) for name, value in schema.items())
    return isinstance(schema, list) and any(_mentions(item, keywords) for item in schema)


def _main() -> None:
    """Validate what comes on standard input, ``[params, conf]``, and write the answer, a JSON string or null."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    params, conf = json.load(sys.stdin)
    json.dump(invalid(params, conf), sys.stdout)


if __name__ == "__main__":
    _main()
