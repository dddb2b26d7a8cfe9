"""tools/loadgen: in the foreground, or beside another one."""

import dataclasses
import json
import subprocess

from .servers import Server
from .works import Work

WARMUP_MS = 300


@dataclasses.dataclass(frozen=True)
class Client:
    loadgen: str
    cpu: int
    seconds: float

    def verify(self, server: Server, work: Work) -> dict:
        """Some replies, each byte compared."""
        count = "4" if work.path == "/100m.bin" and not work.arguments else "64"
        return self.run(server, work.path, [*work.arguments, "-n", count, "-c", "4", "-d", "60s", "--verify"])

    def loop(
        self, server: Server, path: str, connections: int, arguments: tuple[str, ...] = (), warmup_ms: int = WARMUP_MS
    ) -> dict:
        """A closed loop, the server's processes weighed."""
        return self.run(server, path, [*arguments, *self.window(warmup_ms), "-c", str(connections), *pids(server)])

    def run(self, server: Server, path: str, arguments: list[str]) -> dict:
        with self.beside(server, path, arguments) as other:
            return other.result()

    def beside(self, server: Server, path: str, arguments: list[str]) -> "Beside":
        """Begins a run that goes on while others are made."""
        command = [self.loadgen, f"http://{server.address}{path}", "--json", "--cpu", str(self.cpu), *arguments]
        return Beside(f"{server.name}, {path}", command)

    def window(self, warmup_ms: int) -> list[str]:
        return ["-d", f"{round(self.seconds * 1000)}ms", "--warmup", f"{warmup_ms}ms"]


def pids(server: Server) -> list[str]:
    return [word for pid in server.pids() for word in ("--pid", str(pid))]


class Beside:
    """A run under way; leaving it ends it."""

    def __init__(self, what: str, command: list[str]) -> None:
        self.what = what
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def result(self) -> dict:
        try:
            output, errors = self.process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.what}: the client did not end") from None
        if not output:
            raise RuntimeError(f"{self.what}: {errors.strip()}")
        return json.loads(output)
