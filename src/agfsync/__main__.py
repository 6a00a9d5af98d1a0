"""`python -m agfsync`: the command line."""

import sys

from agfsync.cli import main

sys.exit(main())
