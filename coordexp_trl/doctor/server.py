# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Checks of a vLLM server: does it answer, and with the same model, tokens and images?"""

from collections.abc import Iterator

from coordexp_trl.coordinates import COORD_TOKEN
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.doctor.check import Check, Step, fail, ok, run_steps, warn
from coordexp_trl.doctor.checkpoint import Checkpoint
from coordexp_trl.doctor.server_connection import Server, base_url
from coordexp_trl.doctor.server_parity import check_parity
from coordexp_trl.generation import PromptBuilder, SamplingConfig
from coordexp_trl.generation.vllm_config import require_vllm
from coordexp_trl.records import DEFAULT_GRID

SERVE = "docs/vllm.md has the whole command."
RAW_LOGPROBS = "raw_logprobs"


def check_server(url: str, timeout: float, checkpoint: Checkpoint | None, parity: bool) -> Iterator[Check]:
    """
    Args:
        url (`str`):
            Address of the server.
        timeout (`float`):
            Seconds that any call may take.
        checkpoint ([`Checkpoint`], *optional*):
            The model that it should serve.
        parity (`bool`):
            Whether to load the model and compare a completion.

    Yields:
        [`Check`]
    """
    yield from run_steps(STEPS + PARITY_STEPS * parity, "server.skipped", Server(base_url(url), timeout, checkpoint))


def check_reachable(server: Server) -> Iterator[Check]:
    """Does it answer in time?"""
    try:
        require_vllm()
    except ValueError as error:
        yield fail("server.reachable", f"no vLLM on this side: {error}", 'pip install "coordexp-trl[vllm]"')
        return
    from coordexp_trl.generation.vllm_server import SERVE_COMMAND

    try:
        name = server.client.model
    except ConnectionError as error:
        reason = str(error).split(". Start it")[0]
        yield fail(
            "server.reachable",
            reason,
            f"Start it with `{SERVE_COMMAND.replace('CHECKPOINT', server.folder)}` ({SERVE[:-1]}), correct the "
            "address, or give it time with --timeout: loading takes minutes.",
        )
        return
    except Exception as error:  # TRL raises nothing narrower for an unexpected answer
        yield fail(
            "server.reachable", f"{server.url} answers, but not as vLLM does: {error}", "Correct the address or port."
        )
        return
    yield ok("server.reachable", f"{server.url} serves {name!r}")


def check_version(server: Server) -> Iterator[Check]:
    """The versions of vLLM on both sides."""
    try:
        yield ok("server.version", f"vLLM {server.client.check_version()} on both sides")
    except ValueError as error:
        yield fail("server.version", str(error), 'pip install "coordexp-trl[vllm]" on both sides')


def check_tokens(server: Server) -> Iterator[Check]:
    """Coordinate tokens as the server reads them, against the checkpoint's, and the context."""
    name, client = "server.tokens", server.client
    remedy = f"Serve a checkpoint with coordinate tokens: vllm serve {server.folder} (made by coordexp expand-vocab)."
    if server.checkpoint is None:
        read = {k: client.tokenize(COORD_TOKEN.format(k)) for k in (0, DEFAULT_GRID.num_bins - 1)}
        split = [k for k, (ids, _) in read.items() if len(ids) != 1]
        context = read[0][1]
        if split:
            k = split[0]
            yield fail(name, f"the server reads {COORD_TOKEN.format(k)} as {len(read[k][0])} tokens", remedy)
            return
        (first,), (last,) = (ids for ids, _ in read.values())
        yield ok(name, f"{COORD_TOKEN.format(0)} is {first}, {COORD_TOKEN.format(DEFAULT_GRID.num_bins - 1)} {last}")
    else:
        try:
            context = client.check_tokens(server.folder, _telling_tokens(server.checkpoint))
        except ValueError as error:
            yield fail(name, str(error), remedy)
            return
        ids = server.checkpoint.vocabulary.ids
        yield ok(name, f"coordinate tokens {int(ids[0])} to {int(ids[-1])}, end and image tokens as in the checkpoint")
    yield from _judge_context(server, context)


def _telling_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    """Tokens that tell a vocabulary apart."""
    ids = [
        *checkpoint.vocabulary.ids[:: max(1, checkpoint.vocabulary.num_bins // 4)].tolist(),
        int(checkpoint.vocabulary.ids[-1]),
        checkpoint.tokenizer.eos_token_id,
        checkpoint.processor.image_token_id,
    ]
    return dict(zip(checkpoint.tokenizer.convert_ids_to_tokens(ids), ids, strict=True))


def _judge_context(server: Server, context: int) -> Iterator[Check]:
    limit = SamplingConfig().max_completion_length
    if context <= limit:
        yield warn(
            "server.context",
            f"{context} tokens, no room for a prompt and max_completion_length = {limit}, the default",
            "Start it with a larger --max-model-len, or set max_completion_length lower.",
        )
    else:
        yield ok(
            "server.context", f"{context} tokens: prompts of up to {context - limit} beside {limit} of completion"
        )


def check_transfer(server: Server) -> Iterator[Check]:
    """Endpoints that training needs: weights, and caches that can be reset."""
    name = "server.weight_transfer"
    training = (
        f"Inference works. For training start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config. {SERVE}"
    )
    if server.info is None:
        yield warn(name, "its development endpoints are closed: no weights can be sent", training)
    elif not (config := server.info.get("weight_transfer_config")):
        yield warn(name, "it was started without --weight-transfer-config: no weights can be sent", training)
    else:
        yield ok(name, f"backend {config.get('backend')!r}")


def check_logprobs(server: Server) -> Iterator[Check]:
    """Log-probabilities of the model itself, of which scores are made."""
    name = "server.logprobs"
    if server.info is None:
        yield warn(
            name,
            "it does not tell how it computes log-probabilities, because its development endpoints are closed",
            f"Make sure that it was started with --logprobs-mode {RAW_LOGPROBS}, or start it with "
            "VLLM_SERVER_DEV_MODE=1.",
        )
        return
    config = server.info.get("model_config") or {}
    mode = str(config.get("logprobs_mode"))
    if mode != RAW_LOGPROBS:
        yield warn(
            name,
            f"logprobs_mode is {mode!r}: scores are not those of the model alone",
            f"Start it with --logprobs-mode {RAW_LOGPROBS}.",
        )
    else:
        yield ok(name, f"{mode}, at most {config.get('max_logprobs')} a token (-1: all)")


def check_images(server: Server) -> Iterator[Check]:
    """Does the server process images, and make as many tokens of one as the checkpoint's processor?"""
    name, checkpoint = "server.images", server.checkpoint
    if server.client.session.get(f"{server.client.base_url}/v1/chat/completions/render").status_code == 404:
        yield fail(
            name,
            "it has no endpoint that processes images (/v1/chat/completions/render)",
            f"From vLLM 0.30 on, start it with --enable-scale-out. {SERVE}",
        )
        return
    if checkpoint is None:
        yield ok(name, "it has the endpoint that processes images")
        return
    from coordexp_trl.generation.vllm_engine import check_image_length

    prompts = PromptBuilder(checkpoint.processor)
    # Of a size that no processor leaves alone: it comes resized, and a server that resizes it again would differ
    image, _ = draw_shapes(seed=0, index=0, image_size=100)
    (prompt,) = prompts([image])
    expected = prompt.ids.count(checkpoint.processor.image_token_id)
    (features,) = server.client.image_features([[prompts.image(prompt)]])
    try:
        check_image_length(expected, features, server.client.base_url)
    except ValueError as error:
        yield fail(name, str(error), f"Start it with --mm-processor-kwargs '{{\"do_resize\": false}}'. {SERVE}")
        return
    yield ok(name, f"an image of {expected} tokens is one of {expected} tokens there too")


STEPS = (
    Step("server.reachable", (), check_reachable),
    Step("server.version", ("server.reachable",), check_version),
    Step("server.tokens", ("server.reachable",), check_tokens),
    Step("server.images", ("server.reachable",), check_images),
    Step("server.weight_transfer", ("server.reachable",), check_transfer),
    Step("server.logprobs", ("server.reachable",), check_logprobs),
)
PARITY_STEPS = (Step("server.parity", ("server.tokens", "server.images", "server.version"), check_parity),)
