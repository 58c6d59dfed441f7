# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Adapters: trained rows of coordinate tokens, and merging into checkpoints."""
