"""The corpus of the differential test: adding a case is adding a row to the list of its subject, a module of this folder.

A case is one request on a database that its setup made. It is asked of Airflow's own server and of ours; status, body and
every row of every table must come out equal.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.contract.cases.case import Case

CASES: list[Case] = [
    case for module in iter_modules(__path__, f"{__name__}.") for case in getattr(import_module(module.name), "CASES", ())
]
