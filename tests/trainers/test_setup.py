# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""What the trainers of both stages refuse before anything is trained or generated, and what they load."""

import dataclasses
import logging
import math

import pytest
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from toys import PLAIN_SFT, load_model, logged, make_stage1_trainer, make_stage2_trainer, stage1_config, stage2_config
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from coordexp_trl import CoordExpStage1Trainer, CoordExpStage2Trainer
from coordexp_trl.records import DetectionObject
from coordexp_trl.tiny import create_tiny_checkpoint

LORA = LoraConfig(r=2, target_modules=["q_proj"])


STAGES = {"stage1": make_stage1_trainer, "stage2": make_stage2_trainer}


@pytest.fixture(params=STAGES)
def make_trainer(request):
    """Makes a trainer of each stage."""
    return STAGES[request.param]


def refused(*parts):
    """Expects a ValueError that names every part."""
    return pytest.raises(ValueError, match="".join(f"(?=.*{part})" for part in parts))


def mixture_of_experts(checkpoint) -> Qwen3VLMoeForConditionalGeneration:
    """A random model of two experts a layer that goes with the checkpoint's processor."""
    config = Qwen3VLConfig.from_pretrained(checkpoint).to_dict()
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "output_router_logits": False}
    config = Qwen3VLMoeConfig(
        **config | {"model_type": "qwen3_vl_moe", "text_config": config["text_config"] | experts}
    )
    config._name_or_path = str(checkpoint)
    return Qwen3VLMoeForConditionalGeneration(config).float()


def with_object(record, **fields):
    return dataclasses.replace(record, objects=(DetectionObject(**fields),))


# Checkpoints


def test_a_checkpoint_without_coordinate_tokens_is_refused(make_trainer, records, tmp_path):
    plain = create_tiny_checkpoint(tmp_path / "plain", num_bins=0, hidden_size=64, num_layers=2, vision_depth=2)
    with refused(r"<\|coord_0\|>", f"`coordexp expand-vocab --src {plain} --dst DIR`"):
        make_trainer(plain, records, tmp_path / "out")


def test_a_tokenizer_longer_than_the_embedding_is_refused(make_trainer, checkpoint, records, tmp_path):
    processor = AutoProcessor.from_pretrained(checkpoint)
    rows = len(processor.tokenizer)
    processor.tokenizer.add_tokens(["<|one_more|>"], special_tokens=True)
    with refused(str(rows), str(rows + 1), "(resize|expand-vocab)"):
        make_trainer(checkpoint, records, tmp_path, trainer_options={"processing_class": processor})


def test_a_plain_tokenizer_is_refused(make_trainer, checkpoint, records, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with refused("processing_class", "Tokenizer", "AutoProcessor"):
        make_trainer(checkpoint, records, tmp_path, trainer_options={"processing_class": tokenizer})


def test_adapters_on_adapters_are_refused(make_trainer, checkpoint, records, tmp_path):
    model = get_peft_model(load_model(checkpoint), LORA)
    with refused("peft_config", "has an adapter", "merge"):
        make_trainer(model, records, tmp_path, trainer_options={"peft_config": LORA})


def test_virtual_tokens_are_refused(make_trainer, checkpoint, records, tmp_path):
    prefix = PrefixTuningConfig(
        num_virtual_tokens=2, task_type="CAUSAL_LM", num_layers=2, token_dim=64, num_attention_heads=4
    )
    with refused("virtual tokens", "LoRA"):
        make_trainer(checkpoint, records, tmp_path, trainer_options={"peft_config": prefix})


@pytest.mark.parametrize(
    ("freeze", "parts"),
    [
        (["vision_towr"], ("freeze='vision_towr'", "vision_tower")),
        (["("], (r"freeze='\('", "regular expression")),
        (["vision_tower", "projector", "language_model"], ("language_model", "no parameter to train")),
    ],
)
def test_freezing_nothing_or_everything_is_refused(make_trainer, checkpoint, records, tmp_path, freeze, parts):
    with refused(*parts):
        make_trainer(checkpoint, records, tmp_path, freeze=freeze)


def test_a_model_instance_finds_its_processor_and_is_trained_in_place(make_trainer, checkpoint, records, tmp_path):
    model = load_model(checkpoint)
    trainer = make_trainer(model, records, tmp_path)
    assert trainer.model is model
    assert trainer.processing_class.tokenizer.padding_side == "left"
    assert model.generation_config.pad_token_id == trainer.processing_class.tokenizer.pad_token_id


def test_a_trained_adapter_goes_on_training(make_trainer, checkpoint, records, tmp_path):
    model = get_peft_model(load_model(checkpoint), LORA)
    trainer = make_trainer(model, records, tmp_path, gradient_checkpointing=True)
    assert trainer.model is model
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)


@pytest.mark.parametrize(
    ("stage", "trainer_class", "config"),
    [("Stage1", CoordExpStage1Trainer, stage1_config), ("Stage2", CoordExpStage2Trainer, stage2_config)],
)
def test_without_a_configuration_the_checkpoint_names_the_output(
    checkpoint, records, tmp_path, monkeypatch, stage, trainer_class, config
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"coordexp_trl.trainers.{stage.lower()}_trainer.CoordExp{stage}Config", config)
    trainer = trainer_class(str(checkpoint), train_dataset=records)
    assert trainer.args.output_dir == f"checkpoint-CoordExp{stage}"


def test_dropout_is_disabled_on_request(checkpoint, records, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5)
    trainer = make_stage2_trainer(
        checkpoint, records, tmp_path, trainer_options={"peft_config": lora}, disable_dropout=True
    )
    rates = [module.p for name, module in trainer.model.named_modules() if "lora_dropout.default" in name]
    assert rates and set(rates) == {0}


def test_a_mixture_of_experts_balances_its_load_in_plain_fine_tuning_only(checkpoint, records, tmp_path):
    model = mixture_of_experts(checkpoint)
    with refused("router_aux_loss_coef", "load-balancing", "to 0"):
        make_stage1_trainer(model, records, tmp_path, router_aux_loss_coef=0.01)
    for options in ({"router_aux_loss_coef": 0.01, **PLAIN_SFT}, {"router_aux_loss_coef": 0.0}):
        trainer = make_stage1_trainer(model, records, tmp_path, max_steps=1, **options)
        trainer.train()
        (entry,) = logged(trainer)
        assert 0 < entry["loss"] < math.inf and ("aux_loss" in entry) == (options["router_aux_loss_coef"] > 0)


# Data


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_an_empty_dataset_is_refused(make_trainer, checkpoint, records, tmp_path, name):
    with refused(name, "empty", "at least one"):
        make_trainer(
            checkpoint,
            [] if name == "train_dataset" else records,
            tmp_path,
            trainer_options={"eval_dataset": []} if name == "eval_dataset" else {},
        )


def test_training_without_records_is_refused(checkpoint, tmp_path):
    with refused("train_dataset", "None"):
        CoordExpStage1Trainer(str(checkpoint), stage1_config(tmp_path))
    trainer = CoordExpStage2Trainer(str(checkpoint), stage2_config(tmp_path))  # may only evaluate
    with refused("train_dataset", "None"):
        trainer.train()


def test_a_record_with_two_images_is_refused(make_trainer, checkpoint, records, tmp_path):
    two = dataclasses.replace(records[1], images=records[1].images * 2)
    with refused(r"shapes\.jsonl:2", "images", "2", "exactly one"):
        make_trainer(checkpoint, [records[0], two], tmp_path)


@pytest.mark.parametrize(
    ("desc", "parts"),
    [
        ("cat<|im_end|>", ("special token", "Remove or rewrite")),
        ("a</desc>b", ("cannot be written", "</desc>")),
    ],
)
def test_a_description_that_cannot_be_written_is_refused_with_its_line(
    make_trainer, checkpoint, records, tmp_path, desc, parts
):
    bad = with_object(records[2], desc=desc, bins=(1, 2, 3, 4))
    with refused(r"shapes\.jsonl:3", *parts):
        make_trainer(checkpoint, [*records[:2], bad], tmp_path)


def test_the_set_with_the_bad_record_is_named_among_several(make_trainer, checkpoint, records, tmp_path):
    with refused(r"eval_dataset\['two'\]", "empty"):
        make_trainer(
            checkpoint,
            records,
            tmp_path,
            trainer_options={"eval_dataset": {"one": records, "two": []}},
        )


def test_records_made_in_python_are_named_by_their_image(make_trainer, checkpoint, records, tmp_path):
    unnamed = dataclasses.replace(with_object(records[2], desc="a</desc>b", bins=(1, 2, 3, 4)), source="")
    with refused(r"images/000002\.png: "):
        make_trainer(checkpoint, [unnamed], tmp_path)


def test_a_prompt_that_leaves_no_room_for_a_rollout_is_refused(make_trainer, checkpoint, records, tmp_path):
    short = [record for record in records if len(record.objects) == 1]
    with refused("max_length=106", "rollouts of eval_dataset", r"shapes\.jsonl:1", "max_completion_length=64"):
        make_trainer(checkpoint, short, tmp_path, trainer_options={"eval_dataset": records}, max_length=106)


def test_training_records_need_room_for_a_rollout_in_stage2_alone(checkpoint, records, tmp_path):
    with refused("max_length=106", "rollouts of train_dataset", r"shapes\.jsonl:1", "max_pixels"):
        make_stage2_trainer(checkpoint, records, tmp_path, max_length=106)
    make_stage1_trainer(checkpoint, records, tmp_path, max_length=106)


# Room for two objects and a short rollout: the two records with three objects exceed it
SHORT = {"max_length": 43 + 50, "max_completion_length": 8}


def test_records_that_do_not_fit_are_refused_and_counted(make_trainer, checkpoint, records, tmp_path):
    with refused(
        "2 of 8 records of train_dataset",
        r"max_length=93",
        r"shapes\.jsonl:6 \(43 \+ 61\), ",
        r"shapes\.jsonl:8 \(43 \+ 60\)\.",
        'Raise max_length, reduce max_pixels, .*too_long="drop"',
    ):
        make_trainer(checkpoint, records, tmp_path, **SHORT)


def test_a_long_list_of_records_is_shortened(make_trainer, checkpoint, records, tmp_path):
    with refused("24 of 24 records", r"([^,]+shapes\.jsonl:\d \(43 \+ \d\d\), ){20}…\. Raise"):
        make_trainer(checkpoint, records * 3, tmp_path, max_length=50, max_completion_length=1)


def test_records_that_do_not_fit_are_dropped_on_request(make_trainer, checkpoint, records, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(checkpoint, records, tmp_path, too_long="drop", **SHORT)
    (message,) = [item.message for item in caplog.records if "left out" in item.message]
    assert "2 of 8 records" in message and "shapes.jsonl:6" in message and "shapes.jsonl:8" in message
    assert list(trainer.records) == [record for record in records if len(record.objects) < 3]
    assert len(trainer.train_dataset) == 6


def test_dropping_all_records_is_refused(make_trainer, checkpoint, records, tmp_path):
    with refused(
        "8 of 8 records of train_dataset", "max_length=50", "None is left", "Raise max_length or reduce max_pixels\\.$"
    ):
        make_trainer(checkpoint, records, tmp_path, max_length=50, max_completion_length=1, too_long="drop")


def test_records_longer_than_a_rollout_are_reported(checkpoint, records, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_stage2_trainer(checkpoint, records, tmp_path, max_completion_length=25)
    (message,) = [item.message for item in caplog.records if "longer than" in item.message]
    assert "of 8 records of train_dataset" in message and "max_completion_length=25" in message
