"""The two programs that take turns. Each one is a long-lived process, so that starting it is not timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class SideError(Exception):
    """One side cannot run a row."""


class Ours:
    """`runner bench`, one process per row."""

    def __init__(self, runner: str, device: str, threads: int):
        self.runner, self.device, self.threads = runner, device, threads
        self.process = None

    def open(self, row, precision: str, warmup: int, steps: int):
        """Builds the model and times a first round."""
        self.close()
        command = [self.runner, "bench", "--config", "quickstart", "--device", self.device, "--format", "json", "--again"]
        command += ["--threads", str(row.threads or self.threads), "--warmup", str(warmup), "--steps", str(steps)]
        command += row.ours(precision)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, **pipes)
        return self.answer()

    def again(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            error = self.process.stderr.read().strip().splitlines()
            raise SideError(error[-1] if error else "no message")
        return json.loads(line)

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
            self.process = None


class Theirs:
    """PyTorch, one process for all rows."""

    def __init__(self, python: str, device: str, threads: int, preload: list[str] = []):
        environment = dict(os.environ)
        if preload:
            environment["LD_PRELOAD"] = ":".join(preload)
        command = [python, str(HERE / "theirs.py"), device, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SideError("PyTorch's process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def ask(self, do: str, **request):
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def machine() -> dict:
    """The machine that the numbers describe."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"processor": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}
