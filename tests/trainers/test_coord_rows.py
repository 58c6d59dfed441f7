# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Coordinate rows and the optimizer's groups, in the trainers of both stages."""

import re

import pytest
import torch
from peft import LoraConfig, PeftModel
from toys import PLAIN_SFT, load_model, make_stage1_trainer, make_stage2_trainer, one_step
from transformers import TrainerCallback

from coordexp_trl.adapters.rows import RowLookup, token_row_layers
from coordexp_trl.coordinates import WILDCARD_TOKEN
from coordexp_trl.generation import SamplingConfig
from coordexp_trl.recipe import state_memory

LORA = {"r": 2, "target_modules": ["q_proj"]}
STAGES = {"stage1": make_stage1_trainer, "stage2": make_stage2_trainer}
ROWS = r"(embed_tokens|lm_head)\..*trainable_tokens_delta"


@pytest.fixture(params=STAGES)
def make_trainer(request):
    """Makes a trainer of each stage."""
    return STAGES[request.param]


@pytest.fixture(params=["tied", "untied"])
def source(request, checkpoint, untied_checkpoint):
    return checkpoint if request.param == "tied" else untied_checkpoint


def logits(model, processor_ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([processor_ids])).logits


@pytest.mark.parametrize("lora", [None, LORA, LORA | {"use_dora": True}], ids=["rows", "lora", "dora"])
def test_only_the_rows_of_the_bins_learn(make_trainer, source, records, tmp_path, lora):
    before, after, trainer = one_step(
        source,
        records,
        tmp_path,
        make=make_trainer,
        trainer_options={"peft_config": None if lora is None else LoraConfig(**lora)},
        coord_rows=True,
        per_device_train_batch_size=8,
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    rows = {name for name in moved if re.search(ROWS, name)}
    tied = trainer.model.config.tie_word_embeddings
    assert len(rows) == (1 if tied else 2)
    assert all("lora_" in name for name in moved - rows) and (moved == rows) is (lora is None)

    model, plain = trainer.model, load_model(source)
    ids = trainer.vocabulary.ids.tolist()
    wildcard = trainer.processing_class.tokenizer.convert_tokens_to_ids(WILDCARD_TOKEN)
    assert wildcard not in ids
    for layer in token_row_layers(model):
        assert type(layer) is RowLookup
        changed = (layer.get_merged_weights(["default"]) != layer.base_layer.weight).any(1).nonzero()[:, 0].tolist()
        assert set(changed) <= set(ids) and changed

    # A round trip through the folder, by plain PEFT
    trainer.save_model()
    again = PeftModel.from_pretrained(load_model(source), trainer.args.output_dir).eval()
    probe = [*ids[:3], 5, ids[500], wildcard]
    model.eval()
    assert torch.allclose(logits(model, probe), logits(again, probe), atol=1e-5)
    assert not torch.allclose(logits(model, probe), logits(plain, probe), atol=1e-5)


def test_before_the_first_step_nothing_has_changed(make_trainer, source, records, tmp_path):
    trainer = make_trainer(source, records, tmp_path, coord_rows=True)
    probe = [5, *trainer.vocabulary.ids[:4].tolist()]
    trainer.model.eval()
    assert torch.allclose(logits(trainer.model, probe), logits(load_model(source), probe), atol=1e-6)


def test_without_the_option_there_are_no_rows(make_trainer, checkpoint, records, tmp_path):
    trainer = make_trainer(checkpoint, records, tmp_path, trainer_options={"peft_config": LoraConfig(**LORA)})
    assert not token_row_layers(trainer.model)
    full = make_trainer(checkpoint, records, tmp_path)
    assert not isinstance(full.model, PeftModel)


def test_an_adapter_goes_on_in_stage2(source, records, tmp_path):
    trainer = make_stage1_trainer(
        source, records, tmp_path / "stage1", trainer_options={"peft_config": LoraConfig(**LORA)},
        coord_rows=True, max_steps=2, learning_rate=1e-2,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    probe = [5, *trainer.vocabulary.ids[:4].tolist()]
    trainer.model.eval()
    expected = logits(trainer.model, probe)

    before, after, second = one_step(
        str(tmp_path / "stage1"), records, tmp_path / "stage2", coord_rows=True, per_device_train_batch_size=8
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(re.search(ROWS, name) for name in moved) and any("lora_" in name for name in moved)
    assert all("lora_" in name or re.search(ROWS, name) for name in moved)
    fresh = make_stage2_trainer(str(tmp_path / "stage1"), records, tmp_path / "stage3")
    fresh.model.eval()
    assert torch.allclose(logits(fresh.model, probe), expected, atol=1e-5)
    assert fresh.model.peft_config["default"].base_model_name_or_path == str(source)
    with pytest.raises(ValueError, match="model that has an adapter.*coordexp merge"):
        make_stage2_trainer(
            str(tmp_path / "stage1"), records, tmp_path, trainer_options={"peft_config": LoraConfig(**LORA)}
        )


def test_an_adapter_whose_base_is_gone_is_refused(checkpoint, records, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "./gone", "peft_type": "LORA"}')
    with pytest.raises(ValueError, match="is an adapter of './gone'.*no such folder.*base_model_name_or_path"):
        make_stage1_trainer(str(folder), records, tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter_config.json: not a PEFT configuration"):
        make_stage1_trainer(str(folder), records, tmp_path)


# Groups of the optimizer


def test_each_part_has_its_learning_rate_and_decay(make_trainer, untied_checkpoint, records, tmp_path, capsys):
    rates = {"vision_tower": 0.001, "projector": 0.002, "coord_embed_rows": 0.003, "coord_head_rows": 0.004}
    lora = LoraConfig(r=2, target_modules=["q_proj", "qkv", "linear_fc1"])
    trainer = make_trainer(
        untied_checkpoint, records, tmp_path, trainer_options={"peft_config": lora}, coord_rows=True,
        learning_rate=0.01, learning_rates=rates, weight_decay=0.1, weight_decays={"coord_head_rows": 0.0},
    )  # fmt: skip
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    seen = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(seen) == sorted(name for name, value in trainer.model.named_parameters() if value.requires_grad)
    for group in optimizer.param_groups:
        assert group["lr"] == rates.get(group["part"], 0.01)
        assert group["weight_decay"] == (0.0 if group["part"] == "coord_head_rows" else 0.1)
        for parameter in group["params"]:
            name = names[id(parameter)]
            part = "projector" if "merger" in name else "vision_tower" if ".visual." in name else "language_model"
            if "trainable_tokens_delta" in name:
                part = "coord_head_rows" if "lm_head" in name else "coord_embed_rows"
            assert group["part"] == part, name
    assert {group["part"] for group in optimizer.param_groups} == {*rates, "language_model"}
    assert re.search(r"coord_head_rows +64,000 +0.004 +0", capsys.readouterr().out)


def test_biases_and_norms_keep_no_decay(checkpoint, records, tmp_path):
    trainer = make_stage1_trainer(checkpoint, records, tmp_path, weight_decay=0.0, weight_decays={"projector": 0.2})
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decay = {names[id(value)]: group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    assert {name for name, value in decay.items() if value} == {
        name for name in decay if "merger" in name and not re.search("bias|norm", name)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": {"vision": 1e-5}}, "'vision' is no part of the model. Parts: vision_tower, projector"),
        ({"learning_rates": {"projector": -1}}, r"learning_rates\['projector'\] = -1: must be a finite number"),
        ({"weight_decays": 0.1}, "weight_decays=0.1: must map parts"),
    ],
)
def test_mistakes_in_groups_are_refused(make_trainer, checkpoint, records, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(checkpoint, records, tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"learning_rates": {"coord_embed_rows": 1e-3}}, "coord_embed_rows"),
        ({"coord_rows": True, "learning_rates": {"coord_head_rows": 1e-3}}, "coord_head_rows"),  # tied
        ({"freeze": ["vision_tower"], "weight_decays": {"vision_tower": 0.1}}, "vision_tower"),
    ],
)
def test_a_part_in_which_nothing_learns_is_refused(make_trainer, checkpoint, records, tmp_path, options, part):
    trainer = make_trainer(checkpoint, records, tmp_path, **options)
    with pytest.raises(ValueError, match=f"nothing learns in the part '{part}'; what learns is in"):
        trainer.create_optimizer()


def test_rollouts_see_the_rows(checkpoint, records, tmp_path):
    """Generation uses the trained rows: a row that dwarfs all others is what is written."""
    trainer = make_stage2_trainer(checkpoint, records, tmp_path, scripted=False, coord_rows=True)
    layer = token_row_layers(trainer.model)[0]
    prompts = trainer._build_prompts([trainer.train_dataset[0]])
    sampling = SamplingConfig(max_completion_length=4)
    plain = trainer.engine.generate(prompts, sampling)[0].completion_ids
    with torch.no_grad():
        layer.trainable_tokens_delta["default"][7] = 1e3 * layer.base_layer.weight[plain[0]]
    written = trainer.engine.generate(prompts, sampling)[0].completion_ids
    assert written[0] == trainer.vocabulary.ids[7] != plain[0]


def test_plain_sft_trains_rows_too(checkpoint, records, tmp_path):
    before, after, trainer = one_step(
        checkpoint, records, tmp_path, make=make_stage1_trainer, coord_rows=True, per_device_train_batch_size=8,
        **PLAIN_SFT,
    )  # fmt: skip
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) == 1 and re.search(ROWS, *moved)


# Memory


class _Gradients(TrainerCallback):
    """Keeps the bytes of the gradients before the optimizer's step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.bytes = sum(value.grad.nbytes for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("mode", ["full", "lora", "rows", "lora and rows"])
def test_the_memory_that_is_foretold_is_what_a_step_holds(make_trainer, source, records, tmp_path, mode):
    peft_config = LoraConfig(**LORA) if "lora" in mode else None
    gradients = _Gradients()
    trainer = make_trainer(
        source,
        records,
        tmp_path,
        trainer_options={"peft_config": peft_config, "callbacks": [gradients]},
        coord_rows="rows" in mode,
        max_steps=1,
        per_device_train_batch_size=8,
    )
    weights, foretold, moments = state_memory(trainer.model)
    trainer.train()
    storages = {value.untyped_storage().data_ptr(): value.nbytes for value in trainer.model.parameters()}
    states = trainer.optimizer.state.values()
    assert weights == sum(storages.values())
    assert foretold == gradients.bytes
    assert moments == sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
