"""Tables for people, the section of the document, the plot."""

import pathlib
import subprocess
from collections.abc import Callable

from .figures import PEERS, beside_peers, beside_uploads
from .servers import NO_DIGEST
from .works import FAN_OUT, UPLOADS

BEGIN_MARK = "<!-- versus: begin; what stands between the marks is written by tools/versus -->"
END_MARK = "<!-- versus: end -->"

# A client that uses more of its processor than this was measured itself.
CLIENT_SHARE_MAX = 0.95

# When both used less than this of their processors, something else ran there, or they waited for each other.
SHARE_MIN = 0.8

Column = tuple[str, Callable[[dict], str]]


def figure(name: str, key: str, digits: int, scale: float = 1.0, unit: str = "") -> Column:
    return name, lambda summary: number(summary[key], digits, scale, unit)


LOOP_COLUMNS: list[Column] = [
    figure("requests/s", "requests_per_second", 0),
    figure("GB/s", "gb_per_second", 3),
    figure("CPU us/request", "cpu_us_per_request", 2),
    figure("CPU ms/GB", "cpu_ms_per_gb", 1),
    figure("p50 ms", "p50_us", 3, 1e-3),
    figure("p99 ms", "p99_us", 3, 1e-3),
    figure("p99.9 ms", "p99_9_us", 3, 1e-3),
    figure("spread", "spread", 0, 100, " %"),
]

UPLOAD_COLUMNS: list[Column] = [
    figure("GB/s", "gb_per_second", 3),
    figure("CPU ms/GB", "cpu_ms_per_gb", 1),
    figure("reply after the last byte: p50 ms", "reply_p50_us", 3, 1e-3),
    figure("p99 ms", "reply_p99_us", 3, 1e-3),
    figure("max ms", "reply_max_us", 3, 1e-3),
    figure("resident MiB more", "resident_growth_bytes", 1, 1 / (1 << 20)),
    figure("resident MiB ever", "resident_peak_bytes", 1, 1 / (1 << 20)),
    figure("spread", "spread", 0, 100, " %"),
]

EVENTS_COLUMNS: list[Column] = [
    figure("deliveries/s", "deliveries_per_second", 0),
    figure("CPU us/delivery", "cpu_us_per_delivery", 2),
    figure("p50 ms", "p50_us", 3, 1e-3),
    figure("p99 ms", "p99_us", 3, 1e-3),
    figure("p99.9 ms", "p99_9_us", 3, 1e-3),
    figure("max ms", "max_us", 3, 1e-3),
    figure("first to last ms", "spread_us", 3, 1e-3),
    figure("resident KiB each, idle", "resident_bytes_each", 2, 1 / 1024),
    figure("after events", "resident_bytes_each_after", 2, 1 / 1024),
    figure("spread", "spread", 0, 100, " %"),
]

STALLED_COLUMNS: list[Column] = [
    figure("resident MiB more", "resident_growth_bytes", 1, 1 / (1 << 20)),
    figure("stopped", "stalled", 0),
    figure("of these dropped", "stalled_dropped", 0),
    figure("deliveries/s to the others", "deliveries_per_second", 0),
    figure("CPU us/delivery", "cpu_us_per_delivery", 2),
    figure("p50 ms", "p50_us", 3, 1e-3),
    figure("p99 ms", "p99_us", 3, 1e-3),
    figure("max ms", "max_us", 3, 1e-3),
    figure("spread", "spread", 0, 100, " %"),
]

LIVE_COLUMNS: list[Column] = [
    figure("GB/s", "gb_per_second", 3),
    figure("CPU us/delivery", "cpu_us_per_delivery", 2),
    figure("CPU share", "server_share", 1, 100, " %"),
    figure("p50 ms", "p50_us", 3, 1e-3),
    figure("p99 ms", "p99_us", 3, 1e-3),
    figure("p99.9 ms", "p99_9_us", 3, 1e-3),
    figure("max ms", "max_us", 3, 1e-3),
    figure("first to last ms", "spread_us", 3, 1e-3),
    figure("resident MiB more", "resident_growth_bytes", 1, 1 / (1 << 20)),
    figure("spread", "spread", 0, 100, " %"),
]

SCENE_COLUMNS: dict[str, list[Column]] = {
    "mixed": [
        figure("hot requests/s", "requests_per_second", 0),
        figure("p50 ms", "p50_us", 3, 1e-3),
        figure("p99 ms", "p99_us", 3, 1e-3),
        figure("p99.9 ms", "p99_9_us", 3, 1e-3),
        figure("requests/s alone", "alone_requests_per_second", 0),
        figure("p99 ms alone", "alone_p99_us", 3, 1e-3),
        figure("p99 / p99 alone", "p99_growth", 2),
        figure("cold GB/s", "readers_gb_per_second", 3),
        figure("spread", "spread", 0, 100, " %"),
    ],
    "idle": [
        figure("idle", "connections", 0),
        figure("resident bytes each", "idle_resident_bytes", 0),
        figure("slab bytes each, both ends", "idle_slab_bytes", 0),
        figure("requests/s of the active", "requests_per_second", 0),
        figure("p99 ms", "p99_us", 3, 1e-3),
        figure("requests/s without the idle", "alone_requests_per_second", 0),
        figure("p99 ms without", "alone_p99_us", 3, 1e-3),
    ],
    "stopped": [
        figure("KiB a client", "held_bytes", 1, 1 / 1024),
        figure("of it resident", "resident_bytes", 1, 1 / 1024),
        figure("of it slab", "slab_bytes", 1, 1 / 1024),
        figure("unsent KiB", "unsent_bytes", 1, 1 / 1024),
        figure("unread KiB", "unread_bytes", 1, 1 / 1024),
        figure("TCP memory KiB", "tcp_bytes", 1, 1 / 1024),
        figure("of", "tcp_limit_bytes", 1, 1 / 1024),
        figure("machine KiB", "machine_bytes", 1, 1 / 1024),
        figure("KiB a client of 200", "held_bytes_few", 1, 1 / 1024),
        figure("spread", "spread", 0, 100, " %"),
    ],
    "events": EVENTS_COLUMNS,
    "events-many": EVENTS_COLUMNS,
    "events-latency": EVENTS_COLUMNS,
    "events-stalled": STALLED_COLUMNS,
    "live-4": LIVE_COLUMNS,
    "live-20": LIVE_COLUMNS,
    "live-stalled": STALLED_COLUMNS,
    "fair": [
        figure("fast GB/s", "fast_gb_per_second", 3),
        figure("fast GB/s alone", "alone_gb_per_second", 3),
        figure("slow that kept their pace", "slow_kept_share", 1, 100, " %"),
        figure("slow GB/s in all", "slow_gb_per_second", 3),
        figure("of", "slow_asked_gb_per_second", 3),
        figure("spread", "spread", 0, 100, " %"),
    ],
}

SCENE_NOTES = {
    "events": "A closed loop: an event is published once every subscriber has the one before, so that neither is ever behind and latency is half the "
    "time of a round. *Resident KiB each*: the growth of VmRSS from before the subscribers came until all were there and idle, and until the end.",
    "events-many": "The publisher goes on while the events before are still on their way, so that a server may send a subscriber several at once.",
    "events-latency": "Latency is from the moment at which an event was due to its receipt by each subscriber. *Neither busy* here: there is no more to do.",
    "events-stalled": "Those that have stopped read nothing but the head. Each is then sent 6.5 MB, which is more than the kernel queues for it. "
    "Highwater ends the stream of a subscriber that is too far behind (`backlog`, `on_lag`).",
    "live-4": "Latency is from the moment at which a piece was due at the encoder to the receipt of its last byte by each reader.",
    "live-20": "A delivery is a piece of 16 KiB at one reader.",
    "live-stalled": "Those that have stopped read nothing but the head.",
    "mixed": "The same client is timed alone and beside the readers, who share its processor. The cold files are dropped from the page cache "
    "before each run. *Neither busy* here: the server waited for the disk.",
    "idle": "Resident: the growth of VmRSS over the server's processes from before the connections came until each had one reply and was idle. "
    "Slab: the growth of the kernel's, sockets and descriptors of both ends.",
    "stopped": "Each client takes 64 KiB and stops. *KiB a client* is the growth of the resident memory of the server's processes and of "
    "the kernel's slab, that is sockets and the heads of packets that wait; the client's sockets are in it, the same for every server. "
    "Payload that waits (*unsent* in the server's queue, *unread* in the client's) is pages of the page cache for servers that do not copy, "
    "and is there once; *machine*, the fall of MemAvailable, shows the copies of those that do. *TCP memory* is what the kernel charges "
    "for both ends, payload included, *of* its limit for the whole machine, by clients: a server that comes to it is held back by that "
    "and not by a bound of its own, and so is every other program's network. With 200 clients there is room for all, and *KiB a client of "
    "200* says what each costs then.",
    "fair": "A slow reader kept its pace when it got 95 % of it in the time that was measured. What a server queues for the slow ones takes "
    "from the kernel's memory for all TCP, which the fast one needs too.",
}


def columns(row: dict) -> list[Column]:
    def to_baseline(summary_name: str, key: str) -> Column:
        return summary_name, lambda summary: number(summary[key], 2)

    own = UPLOAD_COLUMNS if row["name"] in UPLOADS else SCENE_COLUMNS.get(row["name"])
    if own is None:
        own = [*LOOP_COLUMNS, to_baseline("bytes/s vs nginx", "throughput_ratio"), to_baseline("CPU vs nginx", "cpu_ratio")]
    return [*own, ("notes", notes)]


def number(value: float | None, digits: int, scale: float = 1.0, unit: str = "") -> str:
    return "-" if value is None else f"{value * scale:,.{digits}f}{unit}"


def notes(summary: dict) -> str:
    found = [f"{name}: {count}" for name, count in summary["errors"].items()]
    client, server = (summary.get(key) for key in ("client_share", "server_share"))
    if (client or 0) > CLIENT_SHARE_MAX:
        found.append("client-bound")
    if client is not None and server is not None and max(client, server) < SHARE_MIN:
        found.append("neither busy")
    return ", ".join(found)


def row_table(row: dict) -> list[list[str]]:
    shown = columns(row)
    summaries = with_ratios(row["summaries"])
    return [["server", *(name for name, _ in shown)]] + [
        [server, *(column(summary) for _, column in shown)] for server, summary in summaries.items()
    ]


def with_ratios(summaries: dict[str, dict]) -> dict[str, dict]:
    """Both common figures in terms of nginx, above 1 better."""
    base = summaries.get("nginx", {})

    def ratio(of: dict, over: dict, key: str) -> float | None:
        return of[key] / over[key] if of.get(key) and over.get(key) else None

    return {
        server: summary | {"throughput_ratio": ratio(summary, base, "gb_per_second"), "cpu_ratio": ratio(base, summary, "cpu_ms_per_gb")}
        for server, summary in summaries.items()
    }


def against_table(rows: list[dict], server: str) -> list[list[str]]:
    """What one server is in terms of the others, row by row."""
    table = [["row", "figure", server, "nginx", "its best chunk", "lighttpd", "the floor", "which chunk, which floor"]]
    for row in rows:
        if row["name"] in UPLOADS | FAN_OUT:
            continue
        for line in row["against"].get(server, []):
            which = [name for name in (line["best_chunk"]["server"], line["floor"]["server"]) if name]
            ratios = [number(line[other]["ratio"], 2) for other in ("nginx", "best_chunk", "lighttpd", "floor")]
            table.append([row["title"], line["label"], plain(line["value"]), *ratios, ", ".join(which)])
    return table


def upload_tables(result: dict) -> list[list[list[str]]]:
    """What Highwater needs for uploads, in terms of the others: with the digest that it makes, and without, as the others do."""
    tables = [
        uploads_table(result, "highwater", "nginx and the hash", result["hash_ms_per_gb"]),
        uploads_table(result, NO_DIGEST, "nginx", 0.0),
    ]
    return [table for table in tables if len(table) > 1]


def uploads_table(result: dict, server: str, peer: str, hash_ms_per_gb: float | None) -> list[list[str]]:
    """What one server needs for uploads; no line where it has taken none."""
    table = [["row", f"{server} CPU ms/GB", "Node with busboy", "ratio", peer, "ratio", "which nginx"]]
    for row in result["rows"]:
        if row["name"] in UPLOADS and server in row["summaries"]:
            found = beside_uploads(row, server, hash_ms_per_gb)
            node, nginx = found["node"], found["nginx_and_hash"]
            figures = [plain(found["value"]), plain(node["value"]), number(node["ratio"], 2), plain(nginx["value"]), number(nginx["ratio"], 2)]
            table.append([row["title"], *figures, nginx["server"] or "-"])
    return table


def fan_out_table(result: dict) -> list[list[str]]:
    """What Highwater is in terms of the others where one writes and many read; a head alone where it was not measured."""
    table = [["row", "figure", "highwater", *(word for peer in PEERS for word in (peer, "ratio"))]]
    for row in result["rows"]:
        if row["name"] in FAN_OUT and "highwater" in row["summaries"]:
            for line in beside_peers(row, "highwater"):
                peers = (word for peer in PEERS for word in (plain(line[peer]["value"]), number(line[peer]["ratio"], 2)))
                table.append([row["title"], line["label"], plain(line["value"]), *peers])
    return table


FAN_OUT_NOTE = (
    "What is read while it is made. One process of Node, with a `write` to every response (`tools/versus_lib/events.js`, `live.js`); nchan is a module of nginx. "
    "*floor-send* is a bare loop of send(2), one call for each delivery, most of which the kernel takes, for over loopback the receiving half is done in it too. "
    "One client is the writer and all readers, and takes its share of each latency. It checks that every reader has every event and every piece once, in order "
    "and byte for byte; what is not so is told under *notes*. Ratios above 1.00 are better."
)


def hash_note(result: dict) -> str:
    return (
        "Each row sends a gigabyte, to a file system and without fsync. Highwater's replies name each file's SHA-256, "
        f"unless it is told not to (`sha256 = false`, here *{NO_DIGEST}*); nobody else's do. By itself that hash costs "
        f"{number(result['hash_ms_per_gb'], 1)} ms/GB on the servers' processor (`loadgen --hash`), and *nginx and the hash* is the sum "
        "with nginx in its best setting."
    )


def plain(value: float | None) -> str:
    """Three digits, or the whole number where that has more."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def text_table(table: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    )


def markdown_table(table: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(table[0]) - 2) + ["---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])


def ours(result: dict) -> list[str]:
    """Highwater, and those of its send paths that were measured beside others' files."""
    names = [name for row in result["rows"] for name in row["against"] if name.partition("-")[0] == "highwater"]
    return [name for name in dict.fromkeys(names) if len(against_table(result["rows"], name)) > 1]


def text(result: dict) -> str:
    parts = [f"{row['title']}\n{text_table(row_table(row))}" for row in result["rows"]]
    parts += [
        f"{server} against: above 1.00 is better\n{text_table(against_table(result['rows'], server))}" for server in ours(result)
    ]
    if tables := upload_tables(result):
        parts.append("\n".join(["uploads: above 1.00 is better", *map(text_table, tables), hash_note(result)]))
    if len(table := fan_out_table(result)) > 1:
        parts.append(f"one writes and many read: above 1.00 is better\n{text_table(table)}")
    return "\n\n".join(parts)


def markdown(result: dict, plot: str) -> str:
    lines = [
        BEGIN_MARK,
        "",
        *introduction(result),
        "",
        f"![Each server in terms of nginx, row by row; the tables below have the figures]({plot})",
    ]
    for server in ours(result):
        lines += ["", f"### {server.capitalize()} against the others", "", "Ratios; above 1.00 is better, whichever way the figure goes.", ""]
        lines += [markdown_table(against_table(result["rows"], server))]
    if tables := upload_tables(result):
        lines += ["", "### Uploads", "", hash_note(result)]
        for table in tables:
            lines += ["", markdown_table(table)]
    if len(table := fan_out_table(result)) > 1:
        lines += ["", "### Events and live media", "", FAN_OUT_NOTE, "", markdown_table(table)]
    for row in result["rows"]:
        lines += ["", f"### {row['title'][0].upper()}{row['title'][1:]}", "", markdown_table(row_table(row))]
        if note := SCENE_NOTES.get(row["name"]):
            lines += ["", note + (disk_note(result["disk"]) if row["name"] == "mixed" else "")]
    return "\n".join([*lines, "", END_MARK, ""])


def disk_note(disk: dict) -> str:
    return (
        f" They are {disk['cold_files']} of {disk['cold_file_len'] / 1e9:.2f} GB; read all at once by plain threads, without a server, "
        f"this disk gives {disk['gb_per_second']:.2f} GB/s."
    )


def introduction(result: dict) -> list[str]:
    where = result["machine"]
    kind = "virtual machine" if where["virtual"] else "machine"
    lines = [
        f"Measured on a {kind} with {where['processors']} processors ({where['processor']}), "
        f"{where['memory_gib']} GiB, {where['system']}, {where['kernel']}, over loopback, files in the page cache except where it says cold.",
    ]
    for part in result["parts"]:
        lines += [
            "",
            f"{part['date']}, load {part['load_before']:.2f} before: servers on processor {part['server_cpu']}, clients on processor "
            f"{part['client_cpu']}; medians of {part['rounds']} rounds of {part['seconds']:g} s after a warm-up, in {part['minutes']:.0f} minutes.",
            "",
            "```sh",
            "cargo build --release --workspace",
            part["command"],
            "```",
        ]
    return [
        *lines,
        "",
        *(f"- {', '.join(names)}: {version}" for version, names in by_version(result["versions"]).items()),
        *(f"- {name}: not measured, {why}" for name, why in result["left_out"].items()),
        "",
        "CPU is the server's, user and system, over all its threads (the kernel's workers for a ring are among them). Above 1.00 is "
        "better than nginx in both of the columns that say so. *Spread* is the distance between the best and the worst round. "
        "*Client-bound*: the client used its whole processor, so that the server could have done more; compare CPU there. *Neither busy*: "
        "neither used four fifths of its processor; something else ran on the machine, or the two waited for each other. Latency "
        "is that of a closed loop. Where replies are shorter than nginx's chunks, its best chunk is its default. The floor is the best of the "
        "bare loops of `benches/floor.rs` that serve the row: nothing of HTTP but a fixed head, and so what the kernel takes for itself.",
    ]


def by_version(versions: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in versions.items():
        found.setdefault(version, []).append(name)
    return found


def write_section(path: pathlib.Path, section: str) -> None:
    """Replaces what stands between the marks; what people wrote around them stays."""
    text = path.read_text() if path.exists() else "# Benchmarks\n\n"
    before, begin, rest = text.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if begin and not end:
        raise SystemExit(f"versus: {path} has the first mark and not the second; put back: {END_MARK}")
    path.write_text(before + section + after.removeprefix("\n") if begin else text.rstrip("\n") + "\n\n" + section)


def draw(plot: pathlib.Path, result_json: str, image: pathlib.Path) -> None:
    done = subprocess.run([plot, "-", image], input=result_json, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{plot} failed")
