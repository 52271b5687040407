"""Runs the command `wsgateway` for `python -m wsgateway`."""

import sys

from wsgateway.cli.main import main

sys.exit(main())
