"""What a server and the kernel hold for its connections.

Both ends of a loopback connection lie in one kernel, and it does not say for which of them it holds something. Hence these figures:

- *resident*: VmRSS of the server's processes. Their growth is counted, so that code and libraries, which are there before, are not.
- *slab*: the kernel's small objects: sockets, descriptors, and the heads of packets that wait, of both ends. The client's sockets are
  in it, and are the same whoever serves.
- *unsent* and *unread*: payload in the send queues of the server and the receive queues of the client, by ss(8). With sendfile and
  splice it is pages of the page cache, which are there once for all clients; a server that sends copies pays for each.
- *tcp*: what the kernel charges to all TCP sockets (the `mem` of /proc/net/sockstat), payload of either sort included. It has a limit
  for the whole machine, tcp_mem; when that is reached, every socket of every program may queue less.
- *available*: MemAvailable: everything on both ends, and whatever else the machine did in that time.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable

from .servers import Server

SETTLE_SECONDS = 15.0
POLL_SECONDS = 0.15


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes, at one moment."""

    resident: int
    slab: int
    tcp: int
    available: int

    @staticmethod
    def now(server: Server) -> "Held":
        fields = dict(line.split(":", 1) for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        resident = sum(kib(pathlib.Path(f"/proc/{pid}/status").read_text(), "VmRSS") for pid in server.pids())
        slab, available = (int(fields[name].split()[0]) << 10 for name in ("Slab", "MemAvailable"))
        return Held(resident, slab, tcp_pages(pathlib.Path("/proc/net/sockstat").read_text()) * os.sysconf("SC_PAGE_SIZE"), available)


def kib(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def tcp_pages(sockstat: str) -> int:
    found = re.search(r"^TCP:.* mem (\d+)", sockstat, re.MULTILINE)
    return int(found[1]) if found else 0


def tcp_limit() -> int:
    """The most that all TCP sockets of the machine may be charged with, in bytes (tcp_mem, tcp(7))."""
    return int(pathlib.Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Queues:
    """The established connections of a port, in bytes over all of them, at one moment."""

    connections: int
    unsent: int
    unread: int

    @staticmethod
    def of(port: int) -> "Queues":
        server, client = (queued(f"{side} = :{port}") for side in ("sport", "dport"))
        return Queues(len(server), sum(sent for _, sent in server), sum(received for received, _ in client))


def queued(which: str) -> list[tuple[int, int]]:
    """Recv-Q and Send-Q of each established connection."""
    done = subprocess.run(["ss", "-tnH", "state", "established", which], capture_output=True, text=True, check=True)
    return [(int(received), int(sent)) for received, sent, *_ in map(str.split, done.stdout.splitlines())]


def settled(look: Callable[[], int], until: Callable[[int], bool] = lambda _: True) -> int:
    """What `look` says once it is as wanted and has stayed the same, within a hundredth, for three looks; or after 15 s."""
    seen = [look()]
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        last = seen[-3:]
        if len(last) == 3 and until(last[-1]) and max(last) - min(last) <= max(last) // 100:
            break
        time.sleep(POLL_SECONDS)
        seen.append(look())
    return seen[-1]
