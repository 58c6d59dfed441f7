# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What torch and vLLM lack on a machine without a GPU. Development only: `coordexp_trl` never imports this package."""
