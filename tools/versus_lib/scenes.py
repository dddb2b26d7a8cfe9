"""The rows that are more than one closed loop. Each scene gives one flat run: figures by name, and `errors`.

All clients of a scene share one processor, as in the closed loops. (Running those that only make load in the scheduler's idle class
changed no percentile, so they run as any other.)
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

from . import fan_out
from .client import Client
from .disk import ColdFiles
from .figures import added, percentile, quotient
from .memory import Held, Queues, settled, tcp_limit
from .servers import Kind, Server
from .works import Work

HOT_PATH = "/16k.bin"
HOT_CONNECTIONS = 32

READERS = 8
READER_RATE = 300_000_000
MIXED_WARMUP_MS = 500

IDLE = 10_000
ACTIVE = 1_000
STOPPED = 4_000
STOPPED_FEW = 200
STOP_AFTER = 65_536
CROWD_CONNECTIONS = 16_384
WARMUP_REQUESTS = 10_000

SLOW = 1_000
SLOW_RATE = 1_000_000
# The slow ones first fill the queues between the two ends; their pace shows after that.
FAIR_WARMUP_MS = 1500

# A server that has to be asked for its state, or a client that opens another connection, finds room.
CONNECTIONS_SPARE = 100


@dataclasses.dataclass
class Stage:
    """What scenes need of the run."""

    client: Client
    root: pathlib.Path
    homes: pathlib.Path
    server_cpu: int
    descriptors: int
    cold: ColdFiles | None
    # Servers of crowds are fresh ones, each with a directory of its own.
    started: int = 0

    def capacity(self, kind: Kind) -> int:
        """How many connections a server of a crowd is set up for."""
        return min(CROWD_CONNECTIONS, kind.connections_max(self.descriptors))

    @contextlib.contextmanager
    def unused(self, kind: Kind) -> Iterator[Server]:
        """A server that has done nothing yet."""
        self.started += 1
        home = self.homes / f"{kind.name}-{self.started}"
        with Server(kind, self.root, home, self.server_cpu, self.capacity(kind)) as server:
            yield server

    @contextlib.contextmanager
    def fresh(self, kind: Kind) -> Iterator[Server]:
        """A server that has answered some requests, so that its code is resident, and has no connections."""
        with self.unused(kind) as server:
            self.client.run(server, "/1k.bin", ["-c", str(HOT_CONNECTIONS), "-n", str(WARMUP_REQUESTS)])
            await_connections(server, 0)
            yield server


def reader_len(seconds: float) -> int:
    """A reader must not come to the end of its file: the second time it would be in the page cache."""
    return round(READER_RATE * (seconds + MIXED_WARMUP_MS / 1e3 + 0.5))


def play(stage: Stage, work: Work, server: Server) -> dict:
    """One run of a scene."""
    if work.is_fan_out:
        with stage.unused(server.kind) as unused:
            return fan_out.measure(stage.client, work, unused)
    match work.name:
        case "mixed":
            return mixed(stage, server)
        case "idle":
            return idle(stage, server.kind)
        case "stopped":
            return stopped(stage, server.kind)
        case "fair":
            return fair(stage, server)
    raise RuntimeError(f"no scene is called {work.name}")


def mixed(stage: Stage, server: Server) -> dict:
    """The hot requests alone, then beside readers of files that nobody has read."""
    client, cold = stage.client, stage.cold
    if cold is None:
        raise RuntimeError("there are no cold files")
    alone = client.loop(server, HOT_PATH, HOT_CONNECTIONS)
    cold.evict()
    arguments = [*client.window(MIXED_WARMUP_MS), "-c", str(READERS), "--rate", str(READER_RATE)]
    with client.beside(server, f"/cold{{0..{READERS - 1}}}.bin", arguments) as readers:
        hot = client.loop(server, HOT_PATH, HOT_CONNECTIONS, warmup_ms=MIXED_WARMUP_MS)
        streamed = readers.result()
    if streamed["requests"]:
        raise RuntimeError(f"{server.name}: a reader came to the end of its cold file")
    return {
        "requests_per_second": hot["requests_per_second"],
        "p50_us": percentile(hot, "p50"),
        "p99_us": percentile(hot, "p99"),
        "p99_9_us": percentile(hot, "p99_9"),
        "alone_requests_per_second": alone["requests_per_second"],
        "alone_p99_us": percentile(alone, "p99"),
        "p99_growth": quotient(percentile(hot, "p99"), percentile(alone, "p99")),
        "readers_gb_per_second": streamed["gb_per_second"],
        "server_share": hot["server"]["cpu_share"],
        "client_share": hot["client"]["cpu_share"] + streamed["client"]["cpu_share"],
        "errors": added(alone["errors"], hot["errors"], streamed["errors"]),
    }


def idle(stage: Stage, kind: Kind) -> dict:
    """Idle connections, each after one reply; active ones beside them; the same active ones alone."""
    count = min(IDLE, stage.capacity(kind) - ACTIVE - CONNECTIONS_SPARE)
    client = stage.client
    with stage.fresh(kind) as server:
        before = Held.now(server)
        with client.beside(server, "/1k.bin", ["-c", str(count), "--idle=1", "-d", "120s"]):
            await_connections(server, count)
            settled(lambda: Held.now(server).resident)
            held = Held.now(server)
            beside = client.loop(server, "/1k.bin", ACTIVE)
            stayed = Queues.of(server.port).connections
        await_connections(server, 0)
        alone = client.loop(server, "/1k.bin", ACTIVE)
    return {
        "connections": count,
        "idle_resident_bytes": (held.resident - before.resident) / count,
        "idle_slab_bytes": (held.slab - before.slab) / count,
        "requests_per_second": beside["requests_per_second"],
        "p99_us": percentile(beside, "p99"),
        "alone_requests_per_second": alone["requests_per_second"],
        "alone_p99_us": percentile(alone, "p99"),
        "client_share": beside["client"]["cpu_share"],
        "errors": added(beside["errors"], alone["errors"], {"dropped": count - stayed} if stayed < count else {}),
    }


def stopped(stage: Stage, kind: Kind) -> dict:
    """Clients that ask for 100 MB, take 64 KiB and read no further: very many, and so few that the kernel has room for all."""
    many, few = (stopped_clients(stage, kind, count) for count in (STOPPED, STOPPED_FEW))
    return many | {"held_bytes_few": few["held_bytes"], "errors": added(many["errors"], few["errors"])}


def stopped_clients(stage: Stage, kind: Kind, count: int) -> dict:
    client = stage.client
    with stage.fresh(kind) as server:
        settled(lambda: Held.now(server).slab)
        before = Held.now(server)
        with client.beside(server, "/100m.bin", ["-c", str(count), "--stall-after", str(STOP_AFTER), "-d", "120s"]):
            await_connections(server, count)
            settled(lambda: Queues.of(server.port).unsent)
            settled(lambda: Held.now(server).resident)
            held, queues = Held.now(server), Queues.of(server.port)
        await_connections(server, 0)
    resident, slab = held.resident - before.resident, held.slab - before.slab
    return {
        "held_bytes": (resident + slab) / count,
        "resident_bytes": resident / count,
        "slab_bytes": slab / count,
        "unsent_bytes": queues.unsent / count,
        "unread_bytes": queues.unread / count,
        "tcp_bytes": (held.tcp - before.tcp) / count,
        "tcp_limit_bytes": tcp_limit() / count,
        "machine_bytes": (before.available - held.available) / count,
        "errors": {"dropped": count - queues.connections} if queues.connections < count else {},
    }


def fair(stage: Stage, server: Server) -> dict:
    """One reader at full speed: alone, then beside many slow ones, of which it is counted who got their pace."""
    client = stage.client
    alone = client.loop(server, "/100m.bin", 1)
    arguments = [*client.window(FAIR_WARMUP_MS), "-c", str(SLOW), "--rate", str(SLOW_RATE)]
    with client.beside(server, "/100m.bin", arguments) as slow:
        fast = client.loop(server, "/100m.bin", 1, warmup_ms=FAIR_WARMUP_MS)
        paced = slow.result()
    return {
        "fast_gb_per_second": fast["gb_per_second"],
        "alone_gb_per_second": alone["gb_per_second"],
        "slow_gb_per_second": paced["gb_per_second"],
        "slow_kept_share": paced["pace"]["kept"] / SLOW,
        "slow_asked_gb_per_second": SLOW * SLOW_RATE / 1e9,
        "server_share": fast["server"]["cpu_share"],
        "client_share": fast["client"]["cpu_share"] + paced["client"]["cpu_share"],
        "errors": added(alone["errors"], fast["errors"], paced["errors"]),
    }


def await_connections(server: Server, count: int) -> None:
    """Until that many are there, both ends; those that never come are counted when they are missed."""
    settled(lambda: Queues.of(server.port).connections, lambda now: now >= count if count else now == 0)
