"""What does `python -m sidecar` do? The same as the command `openclaw-sidecar`."""

import sys

from sidecar.cli import main

sys.exit(main())
