"""`python -m dbrnet` is the `dbrnet` command."""

import sys

from dbrnet.cli import main

sys.exit(main())
