"""`python -m unweave` is `unweave`."""

import sys

from .cli import main

sys.exit(main())
