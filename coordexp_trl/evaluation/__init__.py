# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: exact detection counts and pictures. Import from the submodules."""
