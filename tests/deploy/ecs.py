"""Judge a task definition by AWS's own model of its API; run by the environment of ``requirements/deploy.txt``."""

from __future__ import annotations

import json
import sys

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

model = ServiceModel(Loader().load_service_model("ecs", "service-2"))
report = ParamValidator().validate(json.load(sys.stdin), model.operation_model("RegisterTaskDefinition").input_shape)
sys.stdout.write(report.generate_report())
