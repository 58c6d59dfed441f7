# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""`python -m coordexp_trl.cli`, the form in which `accelerate launch -m` starts a command."""

import sys

from coordexp_trl.cli import main

if __name__ == "__main__":
    sys.exit(main())
