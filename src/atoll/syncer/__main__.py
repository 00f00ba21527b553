"""`python -m atoll.syncer`."""

import sys

from atoll.syncer.main import main

if __name__ == "__main__":
    sys.exit(main())
