# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
What a vLLM engine must do in either mode, on real vLLM, in a process of its own.

    python vllm_scenarios.py MODE CHECKPOINT FOLDER [SERVER_URL]

One engine serves all scenarios: they change the weights and send them again. Each writes FOLDER/<name>.pt, with what
it returned or with the traceback of its failure.
"""

import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm_processes import free_port

from coordexp_trl.adapters.rows import use_row_lookup
from coordexp_trl.coordinates import CoordVocabulary
from coordexp_trl.datasets.shapes import draw_shapes
from coordexp_trl.generation import PromptBuilder, Rollout, SamplingConfig, TransformersEngine, VLLMConfig
from coordexp_trl.generation.parity import Parity, compare, model_choices
from coordexp_trl.generation.vllm_engine import VLLMEngine
from coordexp_trl.tiny import DETECTOR_SCENES

CROPS = ((0, 0, 128, 128), (0, 0, 96, 64), (32, 0, 96, 128), (20, 20, 120, 90))
INSTRUCTIONS = ("Detect.", "Detect every object in this picture, please.")
MAX_COMPLETION_LENGTH = 80
CONTEXT = 256
GREEDY = SamplingConfig(max_completion_length=MAX_COMPLETION_LENGTH, logprobs=True)


class Bench:
    """A checkpoint, its engine on vLLM and the engine of transformers that it is compared with."""

    def __init__(self, mode: str, checkpoint: str, url: str | None):
        self.checkpoint = checkpoint
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.vocabulary = CoordVocabulary.from_tokenizer(self.processor.tokenizer)
        builders = [PromptBuilder(self.processor, text) for text in INSTRUCTIONS]
        drawn = [draw_shapes(seed=1, index=k, **DETECTOR_SCENES)[0] for k in range(len(CROPS))]
        pictures = [picture.crop(crop) for picture, crop in zip(drawn, CROPS, strict=True)]
        self.prompts = [prompt for k, picture in enumerate(pictures) for prompt in builders[k % 2]([picture])]
        self.model = self.load()
        config = self.model.config
        self.placeholders = [config.image_token_id, config.video_token_id]
        self.eos = [self.processor.tokenizer.eos_token_id]
        self.engine = VLLMEngine(
            config=VLLMConfig(
                use_vllm=True,
                vllm_mode=mode,
                vllm_server_base_url=url,
                vllm_group_port=free_port(),
                vllm_dtype="float32",
                vllm_enforce_eager=True,
            ),
            model=self.model,
            accelerator=Accelerator(cpu=True),
            processor=self.processor,
            restore_image=builders[0].image,
            eos_token_ids=self.eos,
            image_token_id=self.placeholders[0],
            suppress_tokens=self.placeholders,
            coord_ids=self.vocabulary.ids,
            max_model_length=CONTEXT,
            max_num_seqs=8,
            seed=0,
        )

    def load(self):
        return AutoModelForImageTextToText.from_pretrained(self.checkpoint, dtype=torch.float32).eval()

    def expected(self, model, sampling: SamplingConfig = GREEDY, suppress: list[int] | None = None) -> list[Rollout]:
        engine = TransformersEngine(
            lambda: nullcontext(model),
            eos_token_ids=self.eos,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            image_token_id=self.placeholders[0],
            suppress_tokens=self.placeholders if suppress is None else suppress,
            coord_ids=self.vocabulary.ids,
        )
        return engine.generate(self.prompts, sampling)

    def parity(self, model) -> Parity:
        rollouts = self.engine.generate(self.prompts, GREEDY)
        choices = model_choices(model, self.prompts, rollouts, self.placeholders[0], self.placeholders)
        return compare(rollouts, choices, self.vocabulary, self.eos)

    def tokens(self, rollouts: list[Rollout]) -> list[list[int]]:
        return [rollout.completion_ids for rollout in rollouts]


def change(model, wanted=lambda name: True, seed: int = 1, scale: float = 0.03) -> None:
    """Adds noise to some parameters, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if wanted(name):
                noise = torch.randn(parameter.shape, generator=generator) * (
                    scale if parameter.ndim > 1 else scale / 4
                )
                parameter.add_(noise)


def follow(bench: Bench, model, wanted=lambda name: True, rounds: int = 2) -> dict:
    """Changes weights, sends them, and compares; twice, as the first transfer may differ from later ones."""
    bench.engine.sync(model)
    seen = {"start": bench.tokens(bench.engine.generate(bench.prompts, GREEDY)), "rounds": []}
    seen["expected_start"] = bench.tokens(bench.expected(model))
    for k in range(rounds):
        change(model, wanted, seed=k + 1)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        stale = bench.tokens(bench.engine.generate(bench.prompts, GREEDY))
        bench.engine.sync(model)
        seen["rounds"].append(
            {
                "stale": stale,
                "actual": bench.tokens(bench.engine.generate(bench.prompts, GREEDY)),
                "expected": bench.tokens(bench.expected(model)),
                "untouched": all(torch.equal(before[name], value) for name, value in model.named_parameters()),
            }
        )
    return seen


def greedy(bench: Bench) -> dict:
    bench.engine.sync(bench.model)
    return {"actual": bench.engine.generate(bench.prompts, GREEDY), "expected": bench.expected(bench.model)}


def full(bench: Bench) -> dict:
    return follow(bench, bench.load())


def lora(bench: Bench) -> dict:
    return follow_adapters(bench)


def lora_rows(bench: Bench) -> dict:
    ids = bench.vocabulary.ids.tolist()
    tied = bench.model.config.get_text_config().tie_word_embeddings or bench.model.config.tie_word_embeddings
    return follow_adapters(bench, trainable_token_indices={"embed_tokens": ids} | ({} if tied else {"lm_head": ids}))


def lora_saved_head(bench: Bench) -> dict:
    return follow_adapters(bench, modules_to_save=["lm_head"])


def dora(bench: Bench) -> dict:
    return follow_adapters(bench, use_dora=True)


def follow_adapters(bench: Bench, **options) -> dict:
    targets = r".*language_model.*\.(q_proj|v_proj|up_proj)"
    model = get_peft_model(bench.load(), LoraConfig(r=4, lora_alpha=8, target_modules=targets, **options)).eval()
    use_row_lookup(model)  # as the trainers do
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    result = follow(bench, model, lambda name: name in learning)
    result["merged"] = any(getattr(module, "merged", False) for module in model.modules())
    return result


def vision_only(bench: Bench) -> dict:
    """The images were all seen before: their features must be computed anew."""
    return follow(bench, bench.load(), lambda name: ".visual." in name)


def stale_features(bench: Bench) -> dict:
    """What happens without the reset of the encoder cache."""
    model = bench.load()
    bench.engine.sync(model)
    old = bench.tokens(bench.engine.generate(bench.prompts, GREEDY))
    change(model, lambda name: ".visual." in name)
    owner = bench.engine.backend.llm.llm_engine if bench.engine.colocated else bench.engine.backend.vllm_client
    owner.reset_encoder_cache = lambda: None
    try:
        bench.engine.sync(model)
        unguarded = bench.tokens(bench.engine.generate(bench.prompts, GREEDY))
    finally:
        del owner.reset_encoder_cache
    bench.engine.sync(model)
    return {
        "old": old,
        "unguarded": unguarded,
        "guarded": bench.tokens(bench.engine.generate(bench.prompts, GREEDY)),
        "expected": bench.tokens(bench.expected(model)),
    }


def placeholder(bench: Bench) -> dict:
    """The head is changed so that an image placeholder is always the likeliest token."""
    model = bench.load()
    token = bench.placeholders[0]
    written = sum(bench.tokens(bench.expected(model)), [])
    with torch.no_grad():  # the row of the embedding, if it is the same, is not used: features replace it
        head = model.get_output_embeddings().weight
        head[token] = 4 * head[max(set(written), key=written.count)]
    bench.engine.sync(model)
    guarded = bench.engine.generate(bench.prompts, GREEDY)
    words, bench.engine.bad_words = bench.engine.bad_words, []
    try:
        unguarded = bench.engine.generate(bench.prompts, GREEDY)
    finally:
        bench.engine.bad_words = words
    return {
        "token": token,
        "guarded": bench.tokens(guarded),
        "unguarded": bench.tokens(unguarded),
        "expected": bench.tokens(bench.expected(model)),
    }


def doubled(bench: Bench) -> dict:
    """What happens to prompts whose placeholders are expanded already (colocate)."""
    bench.engine.sync(bench.model)
    backend = bench.engine.backend
    images = [[bench.engine.restore_image(prompt)] for prompt in bench.prompts]
    seen, *_ = backend.generate([prompt.ids for prompt in bench.prompts], images, num_generations=1)
    return {"prompts": [prompt.ids for prompt in bench.prompts], "seen": [list(ids) for ids in seen]}


def unexpanded(bench: Bench) -> dict:
    """What happens to prompts whose placeholders are not expanded (server)."""
    token = bench.placeholders[0]
    short = [replace(prompt, ids=[i for i in prompt.ids if i != token]) for prompt in bench.prompts]
    try:
        bench.engine.generate(short, GREEDY)
    except ValueError as error:
        return {"error": str(error)}
    return {"error": None}


def sampling(bench: Bench) -> dict:
    bench.engine.sync(bench.model)
    two = SamplingConfig(MAX_COMPLETION_LENGTH, temperature=2.0, num_generations=2)
    only = SamplingConfig(MAX_COMPLETION_LENGTH, temperature=1.0, top_k=1)
    return {
        "two": bench.engine.generate(bench.prompts, two),
        "top_1": bench.tokens(bench.engine.generate(bench.prompts, only)),
        "greedy": bench.tokens(bench.expected(bench.model)),
    }


def limits(bench: Bench) -> dict:
    """The message for each request that cannot be served."""
    requests = {
        "context": SamplingConfig(CONTEXT),
        "beams": SamplingConfig(8, num_beams=2),
        "coord_logits": SamplingConfig(8, coord_logits=True),
        "unknown": SamplingConfig(8, generation_kwargs={"no_repeat_ngram_size": 2}),
    }
    messages = {}
    for name, sampling in requests.items():
        try:
            bench.engine.generate(bench.prompts, sampling)
        except ValueError as error:
            messages[name] = str(error)
    if bench.engine.colocated:
        budget, bench.engine.batched_tokens = bench.engine.batched_tokens, 10
        try:
            bench.engine.generate(bench.prompts, GREEDY)
        except ValueError as error:
            messages["image"] = str(error)
        bench.engine.batched_tokens = budget
    return messages


def parity(bench: Bench) -> dict:
    model = bench.load()
    bench.engine.sync(model)
    good = bench.parity(model)
    change(model, seed=3)
    return {"good": good, "stale": bench.parity(model)}


BOTH = (greedy, sampling, full, lora, lora_rows, vision_only, stale_features, placeholder, limits, parity)
SCENARIOS = {
    "colocate": [*BOTH, dora, doubled],
    "server": [*BOTH, lora_saved_head, unexpanded],
}


def main() -> None:
    mode, checkpoint, folder, *url = sys.argv[1:]
    torch.set_num_threads(1)
    bench = Bench(mode, checkpoint, url[0] if url else None)
    for scenario in SCENARIOS[mode]:
        try:
            result = scenario(bench)
        except Exception:
            result = {"traceback": traceback.format_exc()}
        torch.save(result, Path(folder, f"{scenario.__name__}.pt"))
        print(scenario.__name__, "done", flush=True)


if __name__ == "__main__":
    main()
