"""``python -m execution_api`` is ``execution-api``."""

from app.__main__ import main

if __name__ == "__main__":
    main()
