"""What outlet events and the assets that they make may be: pure, and asked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.dags.partitions import LONGEST_KEY
from app.db.assets import AssetKey
from app.releases import Revision
from app.tasks.transitions import Refuse, RegisterAssets

LONGEST_NAME = 1500  # characters, of assets and of aliases; of URIs as well


def refused(effect: RegisterAssets, revision: Revision) -> Refuse | None:
    """Refuse events that could not be recorded, as far as somebody reads them.

    Airflow's server answers 204 to most of these and records the successful task as failed.
    """
    for event in effect.events if revision.assets.event_per_emission else ():
        if refusal := _refuse_partition_key(event.get("partition_key")):
            return refusal
    aliases = effect.alias_names
    for position, event in enumerate(effect.events):
        where = f"outlet_events[{position}]"
        if "source_alias_name" in event:
            alias = event["source_alias_name"]
            if aliases and isinstance(alias, dict | list):
                return _invalid_event(f"{where}.source_alias_name must be a string")
            if not aliases or alias not in aliases:
                continue
            if len(alias) > LONGEST_NAME:
                return _invalid_event(f"{where}.source_alias_name must have at most {LONGEST_NAME} characters")
        key = event.get("dest_asset_key")
        if not (isinstance(key, dict) and key.keys() == {"name", "uri"} and _can_name(key, event)):
            return _invalid_event(f"{where}.dest_asset_key must be an object with a name and a uri")
        if "extra" not in event or (event["extra"] and not isinstance(event["extra"], dict)):
            return _invalid_event(f"{where}.extra must be an object")  # null, and what is as empty, stands for {}
    return None


def why_no_asset(key: AssetKey, extra: Any) -> str | None:
    """Say why no asset can be made of this, by the rules that Airflow's own model has for one, or None."""
    name, uri = key
    if max(len(name), len(uri)) > LONGEST_NAME:
        return f"the name and the URI of an asset must have at most {LONGEST_NAME} characters"
    if not uri:
        return "an asset must have a name or a URI"
    if not uri.isascii():
        return f"the URI of an asset must be ASCII; got {uri!r}"
    if uri.partition(":")[0].lower() == "airflow" and ":" in uri:
        return f"the scheme 'airflow' is reserved; got {uri!r}"
    return None if isinstance(extra, dict) else f"the extra of asset {uri!r} must be an object"


def _can_name(key: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Say whether these parts can name an asset: a new one that comes through an alias, or one to look for."""
    through_alias = "source_alias_name" in event
    return all(isinstance(part, str) if through_alias else not isinstance(part, dict | list) for part in key.values())


def _refuse_partition_key(key: Any) -> Refuse | None:
    if key is None:
        return None
    if not isinstance(key, str):
        message = f"partition_key in outlet event must be a string; got {key!r}."
    elif not key.strip():
        message = f"partition_key in outlet event must not be empty or whitespace-only; got {key!r}."
    elif len(key) > LONGEST_KEY:
        message = f"partition_key in outlet event must be at most {LONGEST_KEY} characters; got {len(key)}."
    else:
        return None
    return Refuse(422, {"reason": "invalid_partition_key", "message": message})


def _invalid_event(message: str) -> Refuse:
    return Refuse(422, {"reason": "invalid_outlet_event", "message": message})
