# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-2: train a model on its own predictions.

    accelerate launch recipes/stage2.py --config recipes/stage2_tiny_cpu.yaml

Every field of the three dataclasses is an option: in the YAML file, or on the command line (which wins).
"""

from trl import ModelConfig, get_peft_config

from coordexp_trl import CoordExpStage2Config, CoordExpStage2Trainer
from coordexp_trl.recipe import (
    RecipeArguments,
    RecipeParser,
    check_output_dir,
    load_records,
    print_plan,
    print_result,
    run_recipe,
    save_overlays,
)


def main() -> None:
    parser = RecipeParser((RecipeArguments, CoordExpStage2Config, ModelConfig))
    recipe_args, training_args, model_args = parser.parse_args_and_config()
    if model_args.model_name_or_path is None:
        raise ValueError("model_name_or_path is not set: give a checkpoint that speaks coordinate tokens.")
    check_output_dir(training_args, recipe_args.overwrite_output_dir)
    train_records, eval_records = load_records(recipe_args)

    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = CoordExpStage2Trainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_records,
        eval_dataset=eval_records,
        peft_config=get_peft_config(model_args),
    )
    if recipe_args.dry_run:
        return print_plan(trainer, (recipe_args, training_args, model_args))

    before = trainer.evaluate() if eval_records else None
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    after = trainer.evaluate() if eval_records else None

    trainer.save_model()
    trainer.save_state()
    print_result(trainer, before, after)
    if eval_records:
        save_overlays(trainer, eval_records, recipe_args.num_overlays)


if __name__ == "__main__":
    run_recipe(main)
