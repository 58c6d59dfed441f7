# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Loss terms: the coordinate distribution, boxes, and the output head at supervised positions."""
