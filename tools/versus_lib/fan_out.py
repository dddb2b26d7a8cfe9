"""The rows in which one writes and many read: server-sent events and live media.

Each is measured on a server of its own, so that its memory says what these readers cost and nothing else. The client is also the
writer: what is late is late by one clock. It checks that each reader has each event, or piece, once, in order and byte for byte; a
row with anything else has errors.
"""

import pathlib

from .client import Client, pids
from .figures import percentile
from .servers import Kind, Server
from .works import EVENTS_PATH, LIVE, LIVE_PATH, Work

# So that code that runs once, and code that is compiled once it is hot, is there before memory is weighed.
WARM_SUBSCRIBERS = 64
WARM_EVENTS = 500


def measure(client: Client, work: Work, server: Server) -> dict:
    """One run, on a server that has done nothing yet but warm up."""
    is_live = work.name in LIVE
    warm_up(client, server, is_live)
    seconds = max(client.seconds, work.seconds)
    arguments = [*work.arguments, "-c", str(work.connections), "-d", f"{round(seconds * 1000)}ms", "--timeout", "20s"]
    return of_fan_out(client.run(server, LIVE_PATH if is_live else EVENTS_PATH, [*arguments, *pids(server)]))


def warm_up(client: Client, server: Server, is_live: bool) -> None:
    if is_live:
        client.run(server, f"{LIVE_PATH}-warm", ["--live", "5MB", "-c", str(WARM_SUBSCRIBERS), "-d", "500ms"])
    else:
        client.run(server, f"{EVENTS_PATH}-warm", ["--subscribe", "--events", str(WARM_EVENTS), "-c", str(WARM_SUBSCRIBERS), "-d", "10s"])


def of_fan_out(run: dict) -> dict:
    """The run's figures, flat."""
    server, readers = run["server"], run["readers"]
    return {
        "deliveries_per_second": run["deliveries_per_second"],
        "gb_per_second": run["gb_per_second"],
        "cpu_us_per_delivery": server["cpu_us_per_delivery"],
        **{f"{name}_us": percentile(run, name) for name in ("p50", "p99", "p99_9", "max")},
        "spread_us": (run["spread_us"] or {}).get("p50"),
        "resident_bytes_each": server["resident_bytes_per_reader"],
        "resident_bytes_each_after": server["resident_max_bytes_per_reader"],
        "resident_growth_bytes": server["resident_growth_bytes"],
        "stalled": readers["stalled"] + readers["stalled_dropped"],
        "stalled_dropped": readers["stalled_dropped"],
        "written": run["written"],
        "unwritten": run["unwritten"],
        "server_share": server["cpu_share"],
        "client_share": run["client"]["cpu_share"],
        "errors": run["errors"],
    }
