# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Lets ms-swift train the checkpoint of `coordexp tiny-model`, as a second external plugin.

ms-swift's template has the id of the image placeholder in Qwen's tokenizer as a constant; the tiny tokenizer has
another one. A checkpoint that `coordexp expand-vocab` made of Qwen3-VL needs none of this.
"""

from swift.template.templates.qwen import Qwen3VLTemplate

from coordexp_trl.tiny import build_tiny_tokenizer

Qwen3VLTemplate.image_token_id = build_tiny_tokenizer().convert_tokens_to_ids("<|image_pad|>")
