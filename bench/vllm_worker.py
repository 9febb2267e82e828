"""A vLLM engine that does what it is told, one JSON object a line; runs in vLLM's environment.

``python vllm_worker.py IN OUT``: file descriptors to read from and to write to. The first object
has the arguments of ``vllm.LLM``; each later one is answered by one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def _metrics(llm: Any) -> dict[str, float]:
    """All of vLLM's counters and gauges, summed over labels."""
    found: dict[str, float] = {}
    for metric in llm.get_metrics():
        value = getattr(metric, "value", None)
        if value is not None:
            found[metric.name] = found.get(metric.name, 0.0) + value
    return found


def _generate(llm: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=asked.get("max_tokens", 16), ignore_eos=True
    )
    prompts: list[dict[str, Any]] = [{"prompt_token_ids": each} for each in asked["prompts"]]
    if "salt" in asked:
        prompts = [{**each, "cache_salt": asked["salt"]} for each in prompts]
    lora = None
    if "lora" in asked:
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(*asked["lora"])
    began_s = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=False, lora_request=lora)
    return {
        "tokens": [list(each.outputs[0].token_ids) for each in outputs],
        "cached": [each.num_cached_tokens for each in outputs],
        "seconds": time.perf_counter() - began_s,
    }


def main() -> None:
    """Serve until told to end."""
    with os.fdopen(int(sys.argv[1]), "r") as asked, os.fdopen(int(sys.argv[2]), "w") as answers:

        def answer(value: object) -> None:
            answers.write(json.dumps(value) + "\n")
            answers.flush()

        arguments = json.loads(asked.readline())
        from vllm import LLM
        from vllm.config import KVTransferConfig

        transfer = arguments.pop("kv_transfer_config", None)
        if transfer is not None:
            arguments["kv_transfer_config"] = KVTransferConfig(**transfer)
        llm = LLM(**arguments)
        answer({"ready": os.getpid()})
        for line in asked:
            command = json.loads(line)
            if command["do"] == "generate":
                answer(_generate(llm, command))
            elif command["do"] == "reset":
                answer({"reset": llm.reset_prefix_cache()})
            elif command["do"] == "metrics":
                answer(_metrics(llm))
            else:
                break
        llm.llm_engine.engine_core.shutdown()
        answer({"ended": True})


if __name__ == "__main__":
    main()
