"""``python -m lql``."""

import sys

from lql.cli import main

if __name__ == "__main__":
    sys.exit(main())
