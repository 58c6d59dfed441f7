# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Does a server write what the checkpoint writes? Loads the model."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from transformers import AutoModelForImageTextToText

from coordexp_trl.checkpoints import end_token_ids, share_padding_token
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.doctor.check import Check, fail, ok
from coordexp_trl.doctor.server_connection import Server
from coordexp_trl.generation import PromptBuilder, SamplingConfig, VLLMConfig
from coordexp_trl.generation.parity import compare, model_choices

_IMAGE_SIZE = 128
_MAX_TOKENS = 128


def check_parity(server: Server) -> Iterator[Check]:
    """One greedy completion of the server for a drawn picture, against the choices of the model."""
    from coordexp_trl.generation.vllm_engine import VLLMEngine

    checkpoint = server.checkpoint
    processor, vocabulary = checkpoint.processor, checkpoint.vocabulary
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder, dtype="auto").to(device).eval()
    share_padding_token(model, processor)
    prompts = PromptBuilder(processor)
    image, _ = draw_shapes(seed=0, index=0, image_size=_IMAGE_SIZE)
    (prompt,) = prompts([image])
    placeholders = [model.config.image_token_id, model.config.video_token_id]
    ends = end_token_ids(model, processor)
    config = VLLMConfig(
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=server.client.base_url,
        vllm_server_timeout=max(server.timeout, 60.0),  # a completion takes longer than a sign of life
    )
    engine = VLLMEngine(
        config=config,
        model=model,
        accelerator=Accelerator(),
        processor=processor,
        restore_image=prompts.image,
        eos_token_ids=ends,
        image_token_id=placeholders[0],
        suppress_tokens=placeholders,
        coord_ids=vocabulary.ids,
        max_model_length=len(prompt.ids) + _MAX_TOKENS,
        max_num_seqs=1,
        seed=0,
        sends_weights=False,
    )
    rollouts = engine.generate([prompt], SamplingConfig(max_completion_length=_MAX_TOKENS))
    choices = model_choices(model, [prompt], rollouts, placeholders[0], placeholders)
    parity = compare(rollouts, choices, vocabulary, ends)
    found = f"{len(rollouts[0].completion_ids)} greedy tokens: {parity.agreement:.1%} of the text tokens agree"
    found += "" if parity.bins != parity.bins else f", coordinates differ by {parity.bins:.2f} bins on average"
    if parity.acceptable(VLLMConfig.parity_max_bins):
        yield ok("server.parity", found)
    else:
        yield fail(
            "server.parity",
            f"{found}; the first difference is token {parity.first_difference[1]}",
            f"Serve this checkpoint (vllm serve {checkpoint.folder}) in its own dtype, and images in the size in "
            "which they come (--mm-processor-kwargs '{\"do_resize\": false}').",
        )
