# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Stage-2 runs with vLLM rollouts, in a process of its own (several under torchrun).

    python vllm_training.py MODE CHECKPOINT RECORDS FOLDER [SERVER_URL SERVER_PID]

MODE is `transformers`, `colocate`, `server` or `killed`: the last one ends the server in the second step. Each process
writes FOLDER/<mode>_<rank>.pt.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from toys import PLAIN_SGD, logged, make_stage2_trainer
from transformers import TrainerCallback
from vllm_processes import free_port

from coordexp_trl.records import read_records

STEPS = 3
DEADLINE = 20  # seconds, for a call to the server


class KillServer(TrainerCallback):
    """Ends the server's processes after the first step."""

    def __init__(self, pid: int):
        self.pid = pid

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            os.killpg(self.pid, signal.SIGKILL)
            self.killed = time.monotonic()


def main() -> None:
    mode, checkpoint, records, folder, *server = sys.argv[1:]
    torch.set_num_threads(1)
    options = PLAIN_SGD | {
        "learning_rate": 0.01,
        "prompt": "Detect.",
        "max_completion_length": 160,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "use_vllm": mode != "transformers",
        "vllm_mode": "colocate" if mode == "colocate" else "server",
        "vllm_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_server_base_url": server[0] if server else None,
        "vllm_server_timeout": DEADLINE,
        "vllm_group_port": free_port(),
        "parity_check_steps": 1,
    }
    records = read_records(records)
    trainer = make_stage2_trainer(checkpoint, records, Path(folder, mode), scripted=False, **options)
    result = {"processes": trainer.accelerator.num_processes}
    if mode == "killed":
        killer = KillServer(int(server[1]))
        trainer.add_callback(killer)
        try:
            trainer.train()
        except ConnectionError as error:
            result |= {"error": str(error), "seconds": time.monotonic() - killer.killed}
        resumed = make_stage2_trainer(
            checkpoint, records, Path(folder, mode), scripted=False, **(options | {"use_vllm": False})
        )
        resumed.train(resume_from_checkpoint=str(Path(folder, mode, "checkpoint-1")))
        trainer = resumed
    else:
        trainer.train()
        result["evaluation"] = trainer.evaluate(records)
    result["logs"] = logged(trainer)
    torch.save(result, Path(folder, f"{mode}_{trainer.args.process_index}.pt"))
    trainer.accelerator.wait_for_everyone()
    trainer.close()


if __name__ == "__main__":
    main()
