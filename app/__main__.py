"""``python -m app`` is ``execution-api``."""

import gc

gc.disable()  # nothing that start-up makes is garbage; app.main freezes it all, and enables the collector

from app.commands.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    main()
