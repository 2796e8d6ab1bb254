"""More generated sequences than the tests make: ``make fuzz ARGS="--steps 20000"``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

MINUTES_PER_STEP = 1 / 120  # half a second, on two busy cores


def main() -> int:
    """Run the generated sequences and return pytest's exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="to compare, half on each metadata revision (%(default)s)")
    parser.add_argument("--seed", type=int, help="repeats a run; the name of a failed test tells its seed")
    options = parser.parse_args()
    environment = {**os.environ, "SEQUENCES_STEPS": str(options.steps // 2)}
    if options.seed is not None:
        environment["SEQUENCES_SEED"] = str(options.seed)
    limit = max(600, int(options.steps * MINUTES_PER_STEP * 60))
    tests = Path(__file__).with_name("test_generated.py")
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-v", f"--timeout={limit}", str(tests)]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
