"""Entry point of `python -m checkrein.auditgate`."""

import sys

from checkrein.auditgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
