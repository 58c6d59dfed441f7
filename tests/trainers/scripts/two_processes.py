# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Runs that one process and two processes must agree on. Imported by the tests, and launched by them:

    torchrun --nproc_per_node 2 two_processes.py CHECKPOINT RECORDS FOLDER [SCENARIO ...]

Each process writes what every scenario returned to `FOLDER/{scenario}_{rank}.pt`.
"""

import gc
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.stage1_scenarios import STAGE1
from scripts.stage2_scenarios import STAGE2

from coordexp_trl.records import read_records

SCENARIOS = STAGE1 | STAGE2


def main() -> None:
    checkpoint, records, folder, *names = sys.argv[1:]
    torch.set_num_threads(1)
    gc.freeze()  # each run collects garbage, and most of what there is was imported
    for name in names:
        result = SCENARIOS[name](Path(checkpoint), read_records(records), Path(folder, name), 2)
        rank = torch.distributed.get_rank()
        torch.save(result, Path(folder, f"{name}_{rank}.pt"))
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
