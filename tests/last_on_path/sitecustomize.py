"""Adds the folder ``LAST_ON_PATH`` after all that Python looks in, if this one is on its ``PYTHONPATH``."""

import os
import sys

sys.path.append(os.environ["LAST_ON_PATH"])
