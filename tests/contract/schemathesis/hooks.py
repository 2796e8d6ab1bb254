"""What schemathesis must know beyond our documents, which say what Airflow's say; loaded by its own process."""

import json
import os

import schemathesis

HERE = json.loads(os.environ["PATH_PARAMETERS"])  # those of rows that exist
# Statuses that the released documents leave out.
EVERYWHERE = ("404",)  # an API date from before the API existed
WITH_TOKEN = ("401", "403")
WITH_BODY = ("400",)  # it is no text
ELSEWHERE = {
    "get_asset_event_by_asset_name_uri": ("400",),  # neither name nor URI
    "head_xcom": ("400",),  # the map index of a task that is not mapped
    "update_hitl_detail": ("409",),  # it was answered already
}
# A 422 has either form: a body or header that does not validate, and a handler's own refusal.
REFUSAL = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("HTTPValidationError", "HTTPExceptionResponse")]}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            left_out = EVERYWHERE + ELSEWHERE.get(operation["operationId"], ())
            left_out += WITH_TOKEN if operation.get("security") else ()
            left_out += WITH_BODY if "requestBody" in operation else ()
            for status in left_out:
                operation["responses"].setdefault(status, {"description": "left out by the released documents"})
            operation["responses"]["422"]["content"] = {"application/json": {"schema": REFUSAL}}


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Let half of the requests name rows that exist."""
    for name, value in HERE.items():
        given = (path_parameters or {}).get(name)
        if isinstance(given, str) and len(given) % 2 == 0:
            path_parameters[name] = value
    return path_parameters
