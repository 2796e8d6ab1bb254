"""``python -m app`` is ``execution-api``."""

from app.cli import main

if __name__ == "__main__":
    main()
