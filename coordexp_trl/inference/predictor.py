# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A model that finds objects in images."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image

from coordexp_trl.checkpoints import (
    check_model_name,
    end_token_ids,
    load_processor,
    read_vocabulary,
    share_padding_token,
)
from coordexp_trl.generation import (
    ImageFeatures,
    Prompt,
    PromptBuilder,
    Rollout,
    RolloutEngine,
    VLLMConfig,
    check_vllm_sampling,
    require_vllm,
)
from coordexp_trl.inference.batches import plan_batches
from coordexp_trl.inference.completions import CompletionReader
from coordexp_trl.inference.config import InferenceConfig
from coordexp_trl.inference.engines import check_adapter, empty_model, load_model, start_transformers, start_vllm
from coordexp_trl.models import backbone
from coordexp_trl.predictions import ImagePrediction
from coordexp_trl.protocols import get_protocol

_SEED_STRIDE = 1_000_003  # between the batches' seeds of two runs with seeds that follow each other


class Predictor:
    """
    Finds objects in images.

    Args:
        model (`str` or `Path`):
            Checkpoint folder or model id: a Qwen3-VL with coordinate tokens.
        adapter (`str` or `Path`, *optional*):
            Folder of a PEFT adapter for it.
        config ([`InferenceConfig`], *optional*):
            Options.
        vllm ([`VLLMConfig`], *optional*):
            Options of vLLM; with `use_vllm` it generates instead of transformers.
        device (`str`, *optional*):
            Device, such as `"cuda"`, `"cuda:1"` or `"cpu"`; by default that of this process.
        batch_size (`int`, *optional*):
            Prompts of one generation. Defaults to 8, with vLLM to 64.

    Raises:
        `ValueError`: if the model, the adapter or an option cannot be used.

    Example:

    ```python
    >>> from PIL import Image
    >>> from coordexp_trl.inference import InferenceConfig, Predictor
    >>> from coordexp_trl.tiny import detector_path
    >>> predictor = Predictor(detector_path(), config=InferenceConfig(prompt="Detect.", max_completion_length=160))
    >>> prediction = predictor.predict([Image.new("RGB", (128, 128))])[0]
    >>> prediction.objects, prediction.finish_reason
    ```
    """

    def __init__(
        self,
        model: str | Path,
        adapter: str | Path | None = None,
        config: InferenceConfig | None = None,
        vllm: VLLMConfig | None = None,
        device: str | None = None,
        batch_size: int | None = None,
    ):
        self.config = config or InferenceConfig()
        self.vllm = vllm if vllm is not None and vllm.use_vllm else None
        self.batch_size = check_batch_size(batch_size, self.vllm)
        self.sampling = self.config.sampling(use_vllm=self.vllm is not None)
        name, adapter = str(model), None if adapter is None else str(adapter)
        check_options(name, adapter, self.config, self.vllm, device)
        self.device = torch.device(device) if device else PartialState().device
        processor = load_processor(name)
        # Its own, for a background thread: a tokenizer refuses to serve two at a time
        self.builder = PromptBuilder(
            copy.deepcopy(processor),
            self.config.instructions[0],
            self.config.system_prompt,
            self.config.min_pixels,
            self.config.max_pixels,
        )
        if self.vllm is None:
            plain_cpu = self.config.dtype == "auto" and self.device.type == "cpu"  # which is slow with 16 bits
            self.model = load_model(name, adapter, "float32" if plain_cpu else self.config.dtype, self.device)
        elif adapter is None:
            self.model = empty_model(name)
        else:
            here = "cpu" if self.vllm.vllm_mode == "colocate" else self.device  # vLLM has its own copy
            self.model = load_model(name, adapter, self.config.dtype, here)
        share_padding_token(self.model, processor)
        self.vocabulary = read_vocabulary(self.model, processor)
        self.reader = CompletionReader(
            get_protocol(self.config.protocol, processor.tokenizer, self.vocabulary),
            end_token_ids(self.model, processor)[0],
            processor.tokenizer,
            self.config.expectation,
        )
        self.context = self.model.config.get_text_config().max_position_embeddings
        self.engine: RolloutEngine | None = None
        if self.vllm is None:
            self.engine = start_transformers(self.model, processor, self.vocabulary)

    def predict(self, images: Sequence[Image.Image], names: Sequence[str] | None = None) -> list[ImagePrediction]:
        """
        Finds the objects of images, in batches of like size.

        Args:
            images (`Sequence[PIL.Image.Image]`):
                Images of any mode and size; their pixels are taken as they are.
            names (`Sequence[str]`, *optional*):
                What the predictions call them. Defaults to the files they were opened from, or their position.

        Returns:
            `list[ImagePrediction]`: A prediction for each, boxes in pixels of the image.

        Raises:
            `ValueError`: If an image is too large for the model's context.
        """
        names = names or [getattr(image, "filename", "") or str(k) for k, image in enumerate(images)]
        images = [plain_image(image) for image in images]
        lengths = self.prompt_lengths([image.size for image in images])
        self.check_lengths(lengths, names)
        if lengths:
            self.start(max(lengths))
        predictions: dict[int, ImagePrediction] = {}
        for number, batch in enumerate(plan_batches(lengths, self.images_per_batch)):
            rollouts = self.generate(self.prompts([images[k] for k in batch]), number)
            for k, written in zip(batch, rollouts, strict=True):
                predictions[k] = self.read(written, names[k], *images[k].size)
        return [predictions[k] for k in range(len(images))]

    @property
    def images_per_batch(self) -> int:
        """Images whose prompts make one batch."""
        return max(1, self.batch_size // len(self.config.instructions))

    def prompt_lengths(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Returns the tokens of the longest prompt of each image, from its width and height."""
        if not sizes:
            return []
        instructions = self.config.instructions
        lengths = [self.builder.lengths(sizes, [text] * len(sizes)) for text in instructions]
        return [max(each) for each in zip(*lengths, strict=True)]

    def check_lengths(self, lengths: Sequence[int], names: Sequence[str]) -> None:
        """Raises a `ValueError` if the longest prompt and completion exceed the model's context."""
        longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if longest is None:
            return
        needed = lengths[longest] + self.config.max_completion_length
        if needed > self.context:
            raise ValueError(
                f"{names[longest]}: its prompt of {lengths[longest]} tokens and max_completion_length = "
                f"{self.config.max_completion_length} exceed the model's context of {self.context} tokens. Reduce "
                "max_completion_length or max_pixels."
            )

    def prompts(self, images: Sequence[Image.Image]) -> list[Prompt]:
        """Returns the prompts of RGB images, those of one image adjacent; for one thread at a time."""
        instructions = self.config.instructions
        return self.builder(
            [image for image in images for _ in instructions], [text for _ in images for text in instructions]
        )

    def start(self, longest: int) -> None:
        """Starts vLLM, if it does not run yet, for prompts of at most `longest` tokens."""
        if self.engine is None:
            self.engine = self._start_vllm(longest)

    def generate(self, prompts: Sequence[Prompt], number: int) -> list[list[Rollout]]:
        """
        Args:
            prompts (`Sequence[Prompt]`):
                From [`Predictor.prompts`].
            number (`int`):
                Number of the batch, which its random numbers depend on.

        Returns:
            `list[list[Rollout]]`: The completions of each image.
        """
        rollouts: list[Rollout] = []
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # a program's own random numbers stay what they are
            torch.manual_seed(self.config.seed * _SEED_STRIDE + number)
            for start in range(0, len(prompts), self.batch_size):
                stop = min(start + self.batch_size, len(prompts))
                features = self._shared_features(prompts, range(start, stop))
                rollouts += self.engine.generate(prompts[start:stop], self.sampling, features)
        size = len(self.config.instructions)
        return [rollouts[start : start + size] for start in range(0, len(rollouts), size)]

    def read(
        self, rollouts: Sequence[Rollout], image: str, width: int, height: int, image_id: int | str | None = None
    ) -> ImagePrediction:
        """Returns the prediction that the completions of an image hold; see [`CompletionReader.read`]."""
        return self.reader.read(rollouts, self.config.class_groups, image, width, height, image_id)

    def close(self) -> None:
        """Ends vLLM; for the end of a program."""
        if self.vllm is not None and self.engine is not None:
            self.engine.close()
            self.engine = None

    @torch.no_grad()
    def _shared_features(self, prompts: Sequence[Prompt], part: range) -> ImageFeatures | None:
        """The vision features of the images that several prompts of a part show, each computed once."""
        size = len(self.config.instructions)
        if size == 1 or self.vllm is not None:
            return None
        owners = [k // size for k in part]
        images = [prompts[owner * size] for owner in range(owners[0], owners[-1] + 1)]
        features = ImageFeatures.encode(backbone(self.model), images)
        return features.select([owner - owners[0] for owner in owners])

    def _start_vllm(self, longest: int) -> RolloutEngine:
        return start_vllm(
            self.vllm,
            self.model,
            self.builder,
            self.vocabulary,
            context=longest + self.config.max_completion_length,
            max_num_seqs=self.batch_size,
            seed=self.config.seed,
            max_logprobs=self.config.vllm_top_logprobs,
            device=self.device,
        )


def plain_image(image: Image.Image) -> Image.Image:
    """Returns the image in RGB and without file metadata, so that nothing rotates it later."""
    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    image.info = {}
    return image


def check_options(
    model: str, adapter: str | None, config: InferenceConfig, vllm: VLLMConfig | None, device: str | None
) -> None:
    """Raises a `ValueError` for what can be known to fail before anything is loaded."""
    check_model_name(model)
    if adapter is not None:
        check_adapter(adapter)
    if vllm is not None:
        vllm.check_vllm_options()
        require_vllm()
        check_vllm_sampling(config.sampling(use_vllm=True))
        if config.expectation and not config.vllm_top_logprobs:
            raise ValueError("expectation with vLLM needs the likeliest tokens: set vllm_top_logprobs, such as 40.")
    try:
        wanted = torch.device(device or "cpu")
    except RuntimeError as error:
        raise ValueError(f"device = {device!r}: unknown. Give cpu, cuda, or cuda:1 and so on.") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device = {device!r}: there are {torch.cuda.device_count()} such devices.")


def check_batch_size(batch_size: int | None, vllm: VLLMConfig | None) -> int:
    """Returns the batch size, or its default; raises a `ValueError` below 1."""
    if batch_size is None:
        return 8 if vllm is None else 64
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: must be at least 1.")
    return batch_size
