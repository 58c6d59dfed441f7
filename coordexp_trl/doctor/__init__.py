# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Looks over an installation, a checkpoint, an adapter, data and a server, and says what is wrong and what to do."""

from coordexp_trl.doctor.check import Check
from coordexp_trl.doctor.examination import examine

__all__ = ["Check", "examine"]
