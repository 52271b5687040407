"""`python -m wsgateway`."""

import sys

from wsgateway.cli import main

sys.exit(main())
