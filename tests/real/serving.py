"""A real vLLM server on the CPU that a test can start, kill and start again at the same address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

NAME = "tiny"


class Server:
    """``python -m vllm.entrypoints.openai.api_server`` with run-time adapters, serving ``model`` as :data:`NAME`."""

    def __init__(self, model: Path, log: Path):
        self.model, self.log, self.process = model, log, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def up(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self.process is not None:
            return
        environment = {
            **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model), "--port",
            str(self.port), "--host", "127.0.0.1", "--served-model-name", NAME, "--dtype", "float32", "--enable-lora",
            "--max-loras", "2", "--max-lora-rank", "8",
        ]  # fmt: skip
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 600
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/models", timeout=10):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End all its processes at once, in the middle of whatever they do."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
