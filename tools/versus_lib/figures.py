"""Medians, ratios, merging of results: no process and no file.

A result is what is written as JSON: `parts` (when, with what command and on what load each part was measured), `machine`, `versions`,
`left_out`, `disk` (where
cold files were read), `hash_ms_per_gb` (what a SHA-256 alone costs, measured between uploads), and `rows`. A row has `name`, `title`, the `runs` of each server, their `summaries`, and what it is
`against`: for each server and figure the ratios to the baseline, to its best chunk, to lighttpd and to the floor. A ratio above 1
is better, whichever way the figure goes. `ratios` holds those to the baseline once more, as the plot takes them.
"""

import statistics

from .servers import BASELINE, BODY_BUFFERS, CHUNKS, label
from .works import CPU, Figure, Work, fan_out, works

LIGHTTPD = "lighttpd"


def of_loop(run: dict) -> dict:
    """A closed loop's figures, flat."""
    return {
        "requests_per_second": run["requests_per_second"],
        "gb_per_second": run["gb_per_second"],
        "cpu_us_per_request": run["server"]["cpu_us_per_request"],
        "cpu_ms_per_gb": run["server"]["cpu_ms_per_gb"],
        "p50_us": percentile(run, "p50"),
        "p99_us": percentile(run, "p99"),
        "p99_9_us": percentile(run, "p99_9"),
        "client_share": run["client"]["cpu_share"],
        "server_share": run["server"]["cpu_share"],
        "errors": run["errors"],
    }


def of_upload(run: dict) -> dict:
    """An upload's figures, flat; its bytes are those of the files."""
    waits = run["upload"]["reply_wait_us"] or {}
    return of_loop(run) | {
        **{f"reply_{name}_us": waits.get(name) for name in ("p50", "p99", "max")},
        **{name: run["server"][name] for name in ("resident_growth_bytes", "resident_peak_bytes")},
    }


def percentile(run: dict, name: str) -> float | None:
    return (run["latency_us"] or {}).get(name)


def quotient(amount: float | None, divisor: float | None) -> float | None:
    return amount / divisor if amount and divisor else None


def added(*many: dict) -> dict:
    total: dict = {}
    for counts in many:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def summarise(runs: list[dict], figure: Figure) -> dict:
    """The median of each figure; *spread* is the distance between the best and the worst run in the row's own figure."""
    summary: dict = {}
    for name in runs[0]:
        values = [run[name] for run in runs if isinstance(run[name], (int, float))]
        summary[name] = statistics.median(values) if values else None
    of = [run[figure.key] for run in runs if run[figure.key] is not None]
    summary["spread"] = quotient(max(of) - min(of), summary[figure.key]) if of else None
    summary["errors"] = added(*(run["errors"] for run in runs))
    return summary


def row(work: Work, runs: dict[str, list[dict]]) -> dict:
    summaries = {server: summarise(list_of, work.figures[0]) for server, list_of in runs.items() if list_of}
    return {
        "name": work.name,
        "title": work.title,
        "summaries": summaries,
        "against": {server: [against(summaries, server, figure) for figure in work.figures] for server in summaries},
        "runs": runs,
    }


def against(summaries: dict[str, dict], server: str, figure: Figure) -> dict:
    """One server's figure, and its ratios to those that it is compared with."""
    ours = summaries[server][figure.key]
    # Where no chunk was measured (short replies), none makes a difference.
    chunks = [name for name in CHUNKS if name in summaries] or [BASELINE]
    floors = [name for name in summaries if name.startswith("floor-")]
    found = {"figure": figure.key, "label": figure.label, "value": ours}
    for column, others in {"nginx": [BASELINE], "best_chunk": chunks, "lighttpd": [LIGHTTPD], "floor": floors}.items():
        other = best(summaries, others, figure)
        found[column] = {"server": other, "ratio": figure.ratio(ours, other and summaries[other][figure.key])}
    return found


def best(summaries: dict[str, dict], among: list[str], figure: Figure) -> str | None:
    known = [name for name in among if name in summaries and summaries[name][figure.key] is not None]
    choose = max if figure.more_is_better else min
    return choose(known, key=lambda name: summaries[name][figure.key], default=None)


def beside_uploads(row: dict, server: str, hash_ms_per_gb: float | None) -> dict:
    """A server's processor time for uploads, in terms of Node's and of nginx's with the hash that nginx does not compute."""
    summaries = row["summaries"]
    ours, node = (summaries.get(name, {}).get(CPU.key) for name in (server, "node-busboy"))
    nginx = best(summaries, [BASELINE, *BODY_BUFFERS], CPU)
    hashed = summaries[nginx][CPU.key] + hash_ms_per_gb if nginx and hash_ms_per_gb is not None else None
    return {
        "value": ours,
        "node": {"value": node, "ratio": CPU.ratio(ours, node)},
        "nginx_and_hash": {"server": nginx, "value": hashed, "ratio": CPU.ratio(ours, hashed)},
    }


PEERS = ("node", "nchan")


def beside_peers(row: dict, server: str) -> list[dict]:
    """A server's figures where one writes and many read, and what they are in terms of its peers'."""
    summaries = row["summaries"]
    figures = next(work.figures for work in fan_out() if work.name == row["name"])
    lines = []
    for figure in figures:
        ours, *others = (summaries.get(name, {}).get(figure.key) for name in (server, *PEERS))
        peers = {name: {"value": other, "ratio": figure.ratio(ours, other)} for name, other in zip(PEERS, others)}
        lines.append({"label": figure.label, "value": ours, **peers})
    return lines


def ratios(rows: list[dict]) -> list[dict]:
    """What is plotted: each row's first figure in terms of the baseline."""
    plotted = []
    for one in rows:
        servers = [{"server": name, "ratio": lines[0]["nginx"]["ratio"]} for name, lines in one["against"].items()]
        if any(bar["ratio"] for bar in servers):
            label = next(iter(one["against"].values()))[0]["label"]
            plotted.append({"title": one["title"], "figure": label, "servers": servers})
    return plotted


def merge(results: list[dict]) -> dict:
    """One result of several: a row of a later one takes the place of the same row of an earlier one.

    Figures of two machines do not belong in one table: ValueError.
    """
    merged: dict = {"parts": [], "machine": results[0]["machine"], "versions": {}, "left_out": {}, "disk": None, "hash_ms_per_gb": None}
    rows: dict[str, dict] = {}
    for result in results:
        if result["machine"] != merged["machine"]:
            raise ValueError(f"measured on two machines: {merged['machine']} and {result['machine']}")
        for name, text in result["versions"].items():
            if merged["versions"].setdefault(name, text) != text:
                raise ValueError(f"two versions of {name}: {merged['versions'][name]} and {text}")
        merged["parts"] += result["parts"]
        merged["left_out"] |= result["left_out"]
        merged["disk"] = result["disk"] or merged["disk"]
        # Parts that were measured before there were uploads have none.
        merged["hash_ms_per_gb"] = result.get("hash_ms_per_gb") or merged["hash_ms_per_gb"]
        rows |= {one["title"]: one for one in result["rows"]}
    measured = {label(name, one["name"]) for one in rows.values() for name in one["summaries"]}
    merged["left_out"] = {name: why for name, why in merged["left_out"].items() if name not in measured}
    order = [work.title for work in works()]
    merged["rows"] = sorted(rows.values(), key=lambda one: order.index(one["title"]) if one["title"] in order else len(order))
    merged["ratios"] = ratios(merged["rows"])
    return merged


def lacking(result: dict) -> list[str]:
    """The rows that a complete comparison has and this one does not, and that nobody said why they are left out."""
    titles = {one["title"] for one in result["rows"]} | result["left_out"].keys()
    return [work.title for work in works() if work.title not in titles]
