"""`python -m lookhear` is the command line."""

import sys

from lookhear.cli import main

if __name__ == "__main__":
    sys.exit(main())
