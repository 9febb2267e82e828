"""Real vLLM engines on the CPU, each in a process of its own, driven from here.

vLLM pins other versions than ours, so it lives in an environment of its own (``make vllm-env``) and
is driven there by `greencache.bench.vllm_worker`, a process that answers lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

__all__ = ["Engine", "EngineError", "connector", "make_model"]

_HERE = Path(__file__).parent
_WORKER, _MODEL = _HERE / "vllm_worker.py", _HERE / "tiny_model.py"

_ALONE = "-P"
"""Python looks for no modules beside these scripts: PyTorch would take our `redis` for its own."""


class EngineError(Exception):
    """An engine ended; with the last that it said."""


def make_model(python: Path, folder: Path, seed: int) -> Path:
    """A tiny model with random weights, made in vLLM's environment."""
    subprocess.run([python, _ALONE, _MODEL, folder, str(seed)], check=True, capture_output=True)
    return folder


def connector(**extra: object) -> dict[str, Any]:
    """What a user adds to have the connector."""
    return {
        "kv_connector": "GreenCacheConnector",
        "kv_connector_module_path": "greencache.adapters.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        **extra,
    }


class Engine:
    """An engine.

    Parameters
    ----------
    python:
        vLLM's environment.
    log:
        Where it writes what it has to say.
    environment:
        Settings of GreenCache and of vLLM.
    arguments:
        Of ``vllm.LLM``.
    """

    def __init__(
        self, python: Path, log: Path, environment: dict[str, str], **arguments: Any
    ) -> None:
        ask, self._asked = os.pipe()
        self._answers, answer = os.pipe()
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                [str(python), _ALONE, str(_WORKER), str(ask), str(answer)],
                pass_fds=(ask, answer),
                stdout=said,
                stderr=said,
                env=_environment(environment),
                start_new_session=True,
            )
        os.close(ask)
        os.close(answer)
        self._write = os.fdopen(self._asked, "w")
        self._read = os.fdopen(self._answers, "r")
        self._log = log
        try:
            self._tell(arguments)
            self._hear()
        except (EngineError, OSError):
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, **command: object) -> dict[str, Any]:
        """Have something done."""
        self._tell(command)
        return self._hear()

    def generate(self, prompts: list[list[int]], **more: object) -> dict[str, Any]:
        """Tokens that follow prompts, and how many of theirs were cached."""
        return self.ask(do="generate", prompts=prompts, **more)

    def ask_for(self, prompt: list[int]) -> None:
        """Begin with a prompt; nobody is going to hear what follows it."""
        self._tell({"do": "generate", "prompts": [prompt]})

    def metrics(self) -> dict[str, float]:
        """What vLLM counted."""
        return self.ask(do="metrics")

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self._end()

    def close(self) -> None:
        """End it in good order."""
        if self.process.poll() is None:
            self._tell({"do": "end"})
            self._hear()
        self._end()

    def _end(self) -> None:
        self.process.wait(60)
        with suppress(BrokenPipeError):  # what it was not told any more
            self._write.close()
        self._read.close()

    def _tell(self, value: object) -> None:
        self._write.write(json.dumps(value) + "\n")
        self._write.flush()

    def _hear(self) -> dict[str, Any]:
        line = self._read.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-4000:]
            raise EngineError(f"the engine ended:\n{tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment(more: dict[str, str]) -> dict[str, str]:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("GREENCACHE_")},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_LOGGING_LEVEL": "INFO",
        **more,
    }
