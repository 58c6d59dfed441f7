# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Datasets: converters to detection records, and synthetic pictures. Import from the submodules."""
