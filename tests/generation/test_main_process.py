# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""A failure of the main process is every process's failure."""

import json

from vllm_processes import run_script


def test_every_process_gets_the_result_or_the_error(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    run_script("failing_main_process.py", tmp_path, deadline=120, launcher=launcher)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first == {
        "processes": 2,
        "result": [0, "done"],
        "ValueError": ["ValueError", "a mistake"],
        "ConnectionError": ["ConnectionError", "the server died"],
        "OwnError": ["RuntimeError", "OwnError: vLLM: no memory"],
    }
