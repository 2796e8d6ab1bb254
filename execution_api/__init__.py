"""What is installed: the package ``app`` in here, and the command that finds it whoever else has an ``app``.

A Dag image may well have a package of this name on ``PYTHONPATH`` or in its working directory. A wheel has ours inside of
this folder, where nobody looks by chance; whoever imports this module looks there first, as do the processes that it forks.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE if (HERE / "app").is_dir() else HERE.parent))  # as a wheel has it, or a checkout
