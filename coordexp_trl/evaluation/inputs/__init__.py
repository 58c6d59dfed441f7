# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What `coordexp eval` compares: predictions and ground truth, read, aligned and checked."""
