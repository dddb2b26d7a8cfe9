"use strict";
// The dashboard: events in, points of a history, charts out. In this order: how numbers are written, the history, elements,
// charts, tables, the connection, keys. Everything from the server becomes text or a number, never markup.
(() => {
  const KEPT_MS = 300_000;
  const LATE_MS = 5_000;
  const GAP_MS = 2_500;
  const RETRY_MS = 2_000;
  const LAST_MINUTE_MS = 60_000;

  // ---- how numbers are written

  const round = (x) => (x >= 100 || Number.isInteger(x) ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
  const scaled = (x, step, units) => {
    let n = 0;
    // What would be rounded up to the next unit is written in it.
    while (x >= step * 0.9995 && n < units.length - 1) {
      x /= step;
      n += 1;
    }
    return `${round(x)} ${units[n]}`;
  };
  const bytes = (x) => scaled(x, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
  const rate = (x) => `${bytes(x)}/s`;
  const count = (x) => (x < 10 && !Number.isInteger(x) ? x.toFixed(1) : x < 10_000 ? x.toFixed(0) : scaled(x, 1000, ["", "k", "M", "G", "T"]).replace(" ", "\u2009"));
  const perSecond = (x) => `${count(x)}/s`;
  const whole = (x) => x.toLocaleString("en", { maximumFractionDigits: 0 });
  const time = (s) => (s < 0.9995e-3 ? `${round(s * 1e6)} µs` : s < 0.9995 ? `${round(s * 1e3)} ms` : `${round(s)} s`);
  const percent = (x) => `${x < 0.0995 ? (x * 100).toFixed(1) : (x * 100).toFixed(0)} %`;
  const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
  const span = (s) => {
    const parts = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
    const first = parts.findIndex(([len]) => s >= len);
    if (first < 0) return "0 s";
    let left = Math.floor(s);
    return parts.slice(first, first + 2).map(([len, unit]) => {
      const n = Math.floor(left / len);
      left -= n * len;
      return n ? `${n} ${unit}` : "";
    }).join(" ").trim();
  };
  const or = (write, x) => (x === null || x === undefined ? "–" : write(x));

  // ---- the history

  /** What does not change while the server runs, and where each family's values stand. */
  let server = null;
  /** The snapshot before, to take differences from. */
  let before = null;
  /** Points of the last five minutes, oldest first. */
  let history = [];
  /** What is drawn: the history, or what it was when it was paused. */
  let shown = history;

  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const family = (snapshot, name) => snapshot.families[server.at.get(name)] ?? [];
  const gauge = (snapshot, name) => sum(family(snapshot, name));

  function point(snapshot) {
    const since = before;
    const seconds = since ? snapshot.uptime - since.uptime : 0;
    const each = (now, then) => (since && seconds > 0 ? (now - then) / seconds : null);
    const grown = (name) => (since ? each(gauge(snapshot, name), gauge(since, name)) : null);
    const list = (read) => read(snapshot).map((n, i) => (since ? each(n, read(since)[i]) : null));
    return {
      t: Date.now(),
      snapshot,
      sent: grown("bytes_sent"),
      received: grown("upload_bytes"),
      answers: list((s) => s.responses).slice(1),
      refused: grown("connections_refused"),
      accepted: grown("connections_accepted"),
      idle: gauge(snapshot, "connections_idle"),
      active: gauge(snapshot, "connections_active"),
      transfers: gauge(snapshot, "transfers"),
      resident: snapshot.resident,
      percentiles: snapshot.first_byte.percentiles,
      counts: since ? snapshot.first_byte.counts.map((n, i) => n - since.first_byte.counts[i]) : null,
      workers: {
        cpu: list((s) => s.cpu.map((x) => x ?? 0)),
        open: family(snapshot, "connections_idle").map((n, i) => n + family(snapshot, "connections_active")[i]),
        requests: list((s) => s.requests),
        sent: list((s) => family(s, "bytes_sent")),
      },
      rates: list((s) => s.families.map(sum)),
    };
  }

  function keep(snapshot) {
    history = history.filter((p) => p.t > Date.now() - KEPT_MS - 2_000);
    history.push(point(snapshot));
    before = snapshot;
    if (!paused) {
      shown = history;
      draw();
    }
  }

  const last = () => shown[shown.length - 1];
  const end = () => last()?.t ?? Date.now();
  /** How far back the charts go: at first only as far as there is something to show. */
  const reach = () => {
    const age = shown.length ? end() - shown[0].t : 0;
    return [60_000, 120_000].find((ms) => age < ms - 1_500) ?? KEPT_MS;
  };

  // ---- elements

  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  function add(parent, name, attributes = {}, text) {
    const isSvg = name === "svg" || parent.namespaceURI === SVG;
    const element = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  /** A table with a caption, into which rows of cells are put; the first cell of each is its head. */
  function table(parent, caption, columns) {
    const element = add(parent, "table");
    add(element, "caption", {}, caption);
    const head = add(add(element, "thead"), "tr");
    for (const { title, kind } of columns) add(head, "th", { scope: "col", class: kind ?? "" }, title);
    const body = add(element, "tbody");
    return (rows) => body.replaceChildren(...rows.map(({ cells, kind }) => {
      const row = document.createElement("tr");
      row.className = kind ?? "";
      cells.forEach((cell, i) => {
        const attributes = { class: columns[i].kind ?? "" };
        const element = add(row, i === 0 ? "th" : "td", i === 0 ? { ...attributes, scope: "row" } : attributes);
        if (cell instanceof Node) element.append(cell);
        else element.textContent = cell;
      });
      return row;
    }));
  }

  /** Where a long table scrolls by itself, which a keyboard has to reach. */
  const scroll = (parent, label) => add(parent, "div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label });

  /** What is only put together while it is open. */
  function fold(parent, title) {
    const element = add(parent, "details");
    add(element, "summary", {}, title);
    element.addEventListener("toggle", () => draw());
    return element;
  }

  // ---- charts

  const HEIGHT = 150;
  const TOP = 16;
  const BOTTOM = HEIGHT - 18;
  /** How long before the end the cursor stands, in milliseconds, in all charts at once; null while there is none. */
  let cursor = null;
  const charts = [];

  const nearest = (at) => {
    let best = null;
    for (const p of shown) {
      if (!best || Math.abs(p.t - at) < Math.abs(best.t - at)) best = p;
    }
    return best && Math.abs(best.t - at) <= GAP_MS ? best : null;
  };
  const chosen = () => (cursor === null ? last() : nearest(end() - cursor));

  /** A round number that is not less. */
  function ceiling(x, binary) {
    if (!(x > 0)) return 1;
    const base = binary ? 2 ** (10 * Math.floor(Math.log2(x) / 10)) : 1;
    const ten = 10 ** Math.floor(Math.log10(x / base));
    return base * ten * [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((n) => n * ten * base >= x * 0.9999);
  }

  /** The parts of a section that all charts have. */
  function frame(id, label) {
    const section = $(id);
    const head = add(section, "div", { class: "head" });
    const now = add(head, "p", { class: "now" });
    const at = add(head, "span", { class: "at" });
    const legend = add(section, "ul", { class: "legend" });
    const svg = add(section, "svg", {
      class: "plot", tabindex: 0, role: "slider", "aria-label": label, "aria-orientation": "horizontal",
    });
    section.insertBefore(svg, legend.nextSibling);
    const frame = { section, now, at, legend, svg, width: 320 };
    new ResizeObserver(([entry]) => {
      frame.width = Math.max(120, Math.round(entry.contentRect.width));
      svg.setAttribute("viewBox", `0 0 ${frame.width} ${HEIGHT}`);
      frame.draw?.();
    }).observe(svg);
    return frame;
  }

  /**
   * A chart of the last five minutes. `series` are drawn as lines, or stacked as areas; `values(p)` are their numbers in a point.
   * `top(most)` is the upper end of the axis; a logarithmic one reaches from one power of ten to another, within `log`.
   */
  function chart(id, { label, series, values, write, big, stacked, washed, log, top, binary, rule, extra, columns }) {
    const f = frame(id, label);
    const entries = [...series, ...(extra ?? [])].map(({ name, color }) => {
      const item = add(f.legend, "li");
      if (color) add(item, "i", { class: `swatch ${color}`, "aria-hidden": "true" });
      add(item, "span", {}, name);
      return add(item, "b");
    });
    const details = fold(f.section, "As a table");
    const fill = table(details, `${label}, by half a minute`, [
      { title: "until" }, ...columns.map((title) => ({ title, kind: "n" })),
    ]);
    const grid = add(f.svg, "g");
    const marks = add(f.svg, "g");
    const labels = add(f.svg, "g");
    const line = add(f.svg, "line", { class: "cursor", y1: TOP - 4, y2: BOTTOM });
    const x = (t) => ((t - end() + reach()) / reach()) * f.width;

    function axis() {
      grid.replaceChildren();
      labels.replaceChildren();
      const step = reach() / (reach() === KEPT_MS ? 5 : 4);
      for (let ago = step; ago < reach(); ago += step) {
        const at = f.width * (1 - ago / reach());
        add(grid, "line", { class: "grid", x1: at, x2: at, y1: BOTTOM, y2: BOTTOM + 3 });
        add(labels, "text", { x: at, y: HEIGHT - 4, "text-anchor": "middle" }, `−${span(ago / 1000)}`);
      }
      add(labels, "text", { x: f.width, y: HEIGHT - 4, "text-anchor": "end" }, "now");
      let y, ticks;
      if (log) {
        const known = shown.flatMap(values).filter((v) => v !== null);
        const [least, most] = log.map((edge) => Math.round(Math.log10(edge)));
        // At least three powers of ten, so that a little more is not drawn as much more.
        const low = Math.min(most - 3, Math.max(least, Math.floor(Math.log10(Math.min(...known, 1e-4)))));
        const high = Math.max(low + 3, Math.min(most, Math.ceil(Math.log10(Math.max(...known, 1e-9)))));
        y = (v) => BOTTOM - ((Math.min(high, Math.max(low, Math.log10(v))) - low) / (high - low)) * (BOTTOM - TOP);
        ticks = [];
        for (let decade = low; decade <= high; decade += 1) ticks.push(10 ** decade);
      } else {
        const most = Math.max(0, ...shown.map((p) => (stacked ? sum(values(p)) : Math.max(...values(p)))));
        const high = top ? top(most) : ceiling(most, binary);
        y = (v) => BOTTOM - (Math.min(v, high) / high) * (BOTTOM - TOP);
        ticks = top ? [high / 2] : [0, high / 2, high];
      }
      ticks.forEach((tick, i) => {
        const at = Math.round(y(tick)) + 0.5;
        add(grid, "line", { class: "grid", x1: 0, x2: f.width, y1: at, y2: at });
        if (tick > 0) add(labels, "text", { class: "halo", x: 1, y: at - 3.5 }, write(tick));
      });
      return y;
    }

    /** Runs of points without a gap. */
    function runs(read) {
      const runs = [];
      let from = null;
      for (const p of shown) {
        const value = read(p);
        if (value === null || value === undefined || Number.isNaN(value)) {
          from = null;
          continue;
        }
        if (from === null || p.t - from > GAP_MS) runs.push([]);
        runs[runs.length - 1].push([x(p.t), value, p]);
        from = p.t;
      }
      return runs;
    }
    const at = (n) => n.toFixed(1);
    const path = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${at(px)} ${at(py)}`).join("");
    // A point alone is a line of no length: its round caps are a dot.
    const stroke = (run) => (run.length === 1 ? `${path(run)}h0` : path(run));

    function plot(y) {
      marks.replaceChildren();
      series.forEach(({ color, hidden }, n) => {
        if (hidden) return;
        const d = [];
        const wash = [];
        const read = (p) => (stacked ? (values(p)[n] === null ? null : sum(values(p).slice(0, n + 1))) : values(p)[n]);
        const floor = (p) => (stacked && n > 0 ? sum(values(p).slice(0, n)) : 0);
        for (const run of runs(read)) {
          const upper = run.map(([px, value]) => [px, y(value)]);
          d.push(stroke(upper));
          const lower = run.map(([px, , p]) => [px, y(floor(p))]).reverse();
          wash.push(`${path(upper)}${path(lower).replace("M", "L")}Z`);
        }
        if (stacked) add(marks, "path", { class: `area ${color}`, d: wash.join("") });
        else {
          if (washed) add(marks, "path", { class: `area wash ${color}`, d: wash.join("") });
          add(marks, "path", { class: `stroke ${color}`, d: d.join("") });
        }
      });
      const ruled = rule?.();
      if (ruled) {
        const at = y(ruled.value);
        add(marks, "line", { class: "rule", x1: 0, x2: f.width, y1: at, y2: at });
        add(marks, "text", { class: "halo", x: 1, y: at - 4 }, ruled.text);
      }
    }

    function point() {
      const p = chosen();
      f.now.replaceChildren();
      if (p) {
        const [main, unit] = big(p);
        f.now.append(main);
        if (unit) add(f.now, "small", {}, ` ${unit}`);
      } else f.now.append("–");
      const read = p ? [...values(p), ...(extra ?? []).map((e) => e.value(p))] : [];
      entries.forEach((entry, i) => {
        entry.textContent = or((extra && i >= series.length && extra[i - series.length].write) || write, read[i]);
      });
      f.at.textContent = cursor === null ? "" : p ? clock(p.t) : "no data";
      const lineX = cursor === null ? -9 : x(end() - cursor);
      line.setAttribute("x1", lineX);
      line.setAttribute("x2", lineX);
      f.svg.setAttribute("aria-valuemin", -reach() / 1000);
      f.svg.setAttribute("aria-valuemax", 0);
      f.svg.setAttribute("aria-valuenow", -Math.round((cursor ?? 0) / 1000));
      const told = series.map(({ name }, i) => `${name} ${or(write, read[i])}`).join(", ");
      f.svg.setAttribute("aria-valuetext", `${p ? clock(p.t) : "no data"}: ${told}`);
    }

    function tabulate() {
      if (!details.open) return;
      const rows = [];
      for (let ago = 0; ago < KEPT_MS; ago += 30_000) {
        const inside = shown.filter((p) => p.t <= end() - ago && p.t > end() - ago - 30_000);
        const mean = (read) => {
          const known = inside.map(read).filter((v) => v !== null && v !== undefined);
          return known.length ? sum(known) / known.length : null;
        };
        const cells = series.map((_, n) => or(write, mean((p) => values(p)[n])));
        const others = (extra ?? []).map((e) => or(e.write ?? write, mean(e.value)));
        if (inside.length) rows.push({ cells: [clock(end() - ago), ...cells, ...others] });
      }
      fill(rows);
    }

    f.draw = () => {
      plot(axis());
      point();
      tabulate();
    };
    f.point = point;
    charts.push(f);

    const moved = (event) => {
      const box = f.svg.getBoundingClientRect();
      const ratio = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      choose(Math.round(((1 - ratio) * reach()) / 1000) * 1000);
    };
    f.svg.addEventListener("pointermove", moved);
    f.svg.addEventListener("pointerdown", moved);
    f.svg.addEventListener("pointerleave", () => choose(null));
    f.svg.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10_000 : 1_000;
      const from = cursor ?? 0;
      const to = {
        ArrowLeft: Math.min(reach(), from + step),
        ArrowRight: Math.max(0, from - step),
        PageUp: Math.min(reach(), from + 60_000),
        PageDown: Math.max(0, from - 60_000),
        Home: Math.min(reach(), shown.length ? end() - shown[0].t : 0),
        End: 0,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
    });
    f.svg.addEventListener("blur", () => choose(null));
    return f;
  }

  function choose(at) {
    if (at === cursor) return;
    cursor = at;
    charts.forEach((f) => f.point());
  }

  const CLASSES = ["2xx", "3xx", "4xx", "5xx"];

  chart("throughput", {
    label: "Throughput",
    series: [{ name: "sent", color: "c-blue" }],
    values: (p) => [p.sent],
    write: rate,
    binary: true,
    washed: true,
    big: (p) => [or(rate, p.sent)],
    extra: [
      { name: "uploads", value: (p) => p.received },
      { name: "transfers", value: (p) => p.transfers, write: count },
    ],
    columns: ["sent", "uploads", "transfers"],
  });

  chart("requests", {
    label: "Requests by class of status",
    series: CLASSES.map((name, i) => ({ name, color: ["c-green", "c-grey", "c-warn", "c-bad"][i] })),
    values: (p) => p.answers,
    stacked: true,
    write: perSecond,
    big: (p) => (p.answers[0] === null ? ["–"] : [count(sum(p.answers)), "a second"]),
    columns: CLASSES,
  });

  chart("first-byte", {
    label: "Time to first byte",
    series: ["p50", "p90", "p99"].map((name, i) => ({ name, color: `c-v${i + 1}` })),
    values: (p) => p.percentiles ?? [null, null, null],
    write: time,
    log: [1e-5, 10],
    big: (p) => [or(time, p.percentiles?.[2]), "p99"],
    columns: ["p50", "p90", "p99"],
  });

  chart("connections", {
    label: "Connections by state",
    series: [{ name: "active", color: "c-blue" }, { name: "idle", color: "c-pale" }],
    values: (p) => [p.active, p.idle],
    stacked: true,
    write: count,
    big: (p) => [count(p.active + p.idle), "open"],
    extra: [
      { name: "accepted", value: (p) => p.accepted, write: perSecond },
      { name: "refused", value: (p) => p.refused, write: perSecond },
    ],
    columns: ["active", "idle", "accepted", "refused"],
  });

  const memory = chart("memory", {
    label: "Memory against its ceiling",
    series: [{ name: "resident", color: "c-brand" }],
    values: (p) => [p.resident],
    write: bytes,
    washed: true,
    top: (most) => Math.max(most, server?.ceiling.bytes ?? 0) || 1,
    rule: () => server && { value: server.ceiling.bytes, text: `ceiling ${bytes(server.ceiling.bytes)}` },
    big: (p) => (p.resident === null || !server
      ? ["–"]
      : [bytes(p.resident), `${percent(p.resident / server.ceiling.bytes)} of ${bytes(server.ceiling.bytes)}`]),
    columns: ["resident"],
  });
  const full = meter("gauge");
  memory.section.insertBefore(full.element, memory.legend);
  memory.legend.remove();
  const terms = fold(memory.section, "What the ceiling is made of");
  const fillTerms = table(terms, "The most memory that this configuration takes", [
    { title: "for" }, { title: "of each", kind: "n" }, { title: "how many", kind: "n" }, { title: "bytes", kind: "n" },
  ]);

  /** A bar that is filled to a part of it. */
  function meter(kind, color = "c-brand") {
    const element = document.createElementNS(SVG, "svg");
    element.setAttribute("class", kind);
    element.setAttribute("aria-hidden", "true");
    const bar = add(element, "rect", { class: `bar ${color}`, height: "100%", width: 0, rx: 2 });
    return { element, set: (part) => bar.setAttribute("width", `${(Math.min(1, Math.max(0, part)) * 100).toFixed(2)}%`) };
  }

  function drawMemory() {
    const p = last();
    if (!server || !p) return;
    full.set((p.resident ?? 0) / server.ceiling.bytes);
    if (!terms.open) return;
    const { ceiling } = server;
    const rows = (where, list, times) => list.map(([name, n, each]) => ({
      cells: [`${where}: ${name}`, bytes(each), whole(n * times), bytes(n * each * times)],
    }));
    const { workers } = ceiling;
    fillTerms([
      ...rows("process", ceiling.process, 1),
      ...rows(workers === 1 ? "worker" : "workers", ceiling.worker, workers),
      { cells: ["ceiling", "", "", bytes(ceiling.bytes)], kind: "sum" },
      ...rows("kernel, beside it", ceiling.kernel, workers),
    ]);
  }

  // ---- the histogram of the last minute

  const spread = (() => {
    const f = frame("spread", "Time to first byte in the last minute");
    const details = fold(f.section, "As a table");
    const fill = table(details, "Requests of the last minute by their time to first byte", [
      { title: "up to" }, { title: "requests", kind: "n" }, { title: "of all", kind: "n" },
    ]);
    const bars = add(f.svg, "g");
    const item = add(f.legend, "li");
    const name = add(item, "span");
    const value = add(item, "b");
    let marked = null;
    let counts = [];

    const edge = (i) => (i < server.first_byte_edges.length ? time(server.first_byte_edges[i]) : "longer");
    const until = (i) => (i < server.first_byte_edges.length ? `up to ${edge(i)}` : `over ${edge(i - 1)}`);

    f.point = () => {
      const all = sum(counts);
      f.now.replaceChildren(count(all));
      add(f.now, "small", {}, " requests");
      const told = marked === null || !server ? null : `${whole(counts[marked] ?? 0)} (${percent(all ? (counts[marked] ?? 0) / all : 0)})`;
      name.textContent = told ? until(marked) : "each bar is a span of time";
      value.textContent = told ?? "";
      [...bars.querySelectorAll(".bar")].forEach((bar, i) => bar.classList.toggle("marked", i === marked));
      f.svg.setAttribute("aria-valuemin", 0);
      f.svg.setAttribute("aria-valuemax", Math.max(0, counts.length - 1));
      f.svg.setAttribute("aria-valuenow", marked ?? 0);
      f.svg.setAttribute("aria-valuetext", told ? `${until(marked)}: ${told} requests` : `${whole(all)} requests`);
    };

    f.draw = () => {
      if (!server) return;
      counts = new Array(server.first_byte_edges.length + 1).fill(0);
      for (const p of shown) {
        if (p.counts && p.t > end() - LAST_MINUTE_MS) p.counts.forEach((n, i) => { counts[i] += n; });
      }
      const most = Math.max(1, ...counts);
      const width = f.width / counts.length;
      bars.replaceChildren();
      add(bars, "line", { class: "grid", x1: 0, x2: f.width, y1: BOTTOM + 0.5, y2: BOTTOM + 0.5 });
      counts.forEach((n, i) => {
        const height = n ? Math.max(1.5, (n / most) * (BOTTOM - TOP)) : 0;
        add(bars, "rect", { class: "bar c-v2", x: (i * width + 1).toFixed(1), y: (BOTTOM - height).toFixed(1), width: Math.max(1, width - 2).toFixed(1), height: height.toFixed(1), rx: 1 });
      });
      server.first_byte_edges.forEach((seconds, i) => {
        if (Math.abs(Math.log10(seconds) % 1) > 1e-6 && Math.abs(Math.log10(seconds) % 1) < 1 - 1e-6) return;
        const at = (i + 1) * width;
        add(bars, "line", { class: "grid", x1: at, x2: at, y1: BOTTOM, y2: BOTTOM + 4 });
        add(bars, "text", { x: at, y: HEIGHT - 4, "text-anchor": "middle" }, edge(i));
      });
      f.point();
      if (details.open) {
        const all = sum(counts);
        fill(counts.map((n, i) => ({ cells: [edge(i), whole(n), percent(all ? n / all : 0)] })).filter((_, i) => counts[i] > 0));
      }
    };
    const mark = (i) => {
      marked = i;
      f.point();
    };
    f.svg.addEventListener("pointermove", (event) => {
      const box = f.svg.getBoundingClientRect();
      mark(Math.min(counts.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * counts.length))));
    });
    f.svg.addEventListener("pointerleave", () => mark(null));
    f.svg.addEventListener("blur", () => mark(null));
    f.svg.addEventListener("keydown", (event) => {
      const to = {
        ArrowLeft: Math.max(0, (marked ?? counts.length) - 1),
        ArrowRight: Math.min(counts.length - 1, (marked ?? -1) + 1),
        Home: 0,
        End: counts.length - 1,
        Escape: null,
      }[event.key];
      if (to === undefined || !counts.length) return;
      event.preventDefault();
      mark(to);
    });
    charts.push(f);
    return f;
  })();

  // ---- tables

  const busiest = $("busiest");
  const fillBusiest = table(scroll(busiest, "Busiest files"), "Paths by what they cost the server, over the last half to whole minute", [
    { title: "path", kind: "path" }, { title: "requests", kind: "n" }, { title: "sent", kind: "n" }, { title: "of all", kind: "n optional" },
  ]);
  const noneBusy = add(busiest, "p", { class: "empty" }, "Nothing was asked for in the last minute.");

  function drawBusiest() {
    const list = last()?.snapshot.busiest ?? [];
    noneBusy.hidden = list.length > 0;
    busiest.querySelector("table").hidden = list.length === 0;
    const all = sum(list.map((busy) => busy.bytes)) || 1;
    const most = Math.max(1, ...list.map((busy) => busy.bytes));
    fillBusiest(list.map(({ path, requests, bytes: sent }) => {
      const name = document.createElement("span");
      add(name, "bdi", {}, path);
      const bar = meter("meter", "c-blue");
      bar.set(sent / most);
      name.append(bar.element);
      return { cells: [name, whole(requests), bytes(sent), percent(sent / all)] };
    }));
  }

  const fillWorkers = table(scroll($("workers"), "Workers"), "Threads, and how much of a processor each takes", [
    { title: "worker" }, { title: "utilisation", kind: "sparks" }, { title: "cpu", kind: "n" }, { title: "open", kind: "n" },
    { title: "requests", kind: "n" }, { title: "sent", kind: "n optional" },
  ]);

  function spark(values) {
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ class: "spark", viewBox: `0 0 ${reach()} 100`, preserveAspectRatio: "none", "aria-hidden": "true" })) {
      svg.setAttribute(key, value);
    }
    const points = values.filter(([, v]) => v !== null).map(([t, v]) => `${Math.round(t - end() + reach())} ${(100 - Math.min(1, v) * 98).toFixed(1)}`);
    add(svg, "line", { class: "grid", x1: 0, x2: reach(), y1: 100, y2: 100, "vector-effect": "non-scaling-stroke" });
    if (points.length > 1) {
      const [first, final] = [points[0], points[points.length - 1]].map((p) => p.split(" ")[0]);
      add(svg, "path", { class: "area wash c-green", d: `M${first} 100L${points.join("L")}L${final} 100Z` });
      add(svg, "path", { class: "stroke c-green", d: `M${points.join("L")}`, "vector-effect": "non-scaling-stroke" });
    }
    return svg;
  }

  function drawWorkers() {
    const { cpu, open, requests, sent } = last()?.workers ?? { cpu: [], open: [], requests: [], sent: [] };
    fillWorkers(cpu.map((used, i) => ({
      cells: [String(i), spark(shown.map((p) => [p.t, p.workers.cpu[i] ?? null])), or(percent, used), count(open[i]), or(perSecond, requests[i]), or(rate, sent[i])],
    })));
  }

  const counters = fold($("counters"), "Show all");
  const fillCounters = table(counters, "Sums over the workers, as /metrics has them", [
    { title: "name", kind: "mono" }, { title: "now", kind: "n" }, { title: "a second", kind: "n" }, { title: "what it is", kind: "help optional" },
  ]);

  function drawCounters() {
    const p = last();
    if (!counters.open || !p || !server) return;
    fillCounters(server.families.map(({ name, help, counts }, i) => ({
      cells: [name, whole(sum(p.snapshot.families[i] ?? [])), counts ? or(count, p.rates[i]) : "", help],
    })));
  }

  const facts = {};
  for (const [key, title] of [["up", "up"], ["workers", "workers"], ["driver", "driver"], ["version", "version"]]) {
    const pair = add($("facts"), "div", { class: key === "driver" || key === "version" ? "optional" : "" });
    add(pair, "dt", {}, title);
    facts[key] = add(pair, "dd", {}, "–");
  }

  function draw() {
    const p = last();
    if (p) {
      facts.up.textContent = span(p.snapshot.uptime);
      document.title = p.sent === null ? "Highwater" : `${rate(p.sent)} · Highwater`;
    }
    charts.forEach((f) => f.draw());
    drawMemory();
    drawBusiest();
    drawWorkers();
    drawCounters();
  }

  // ---- the connection

  let paused = false;
  let stream = null;
  let heard = null;
  let retry = null;

  function say(state, text) {
    if ($("state").dataset.state !== state) $("state").dataset.state = state;
    if ($("state-text").textContent !== text) $("state-text").textContent = text;
    document.body.classList.toggle("stale", state === "lost");
  }

  function tell() {
    const silent = heard === null ? null : Date.now() - heard;
    const open = stream?.readyState === EventSource.OPEN;
    if (open && silent !== null && silent < LATE_MS) return paused ? say("paused", `Paused at ${clock(end())}`) : say("live", "Live");
    if (heard === null && open) return say("connecting", "Connecting…");
    say("lost", heard === null ? "No connection, trying again" : `No connection since ${clock(heard)}, trying again`);
  }

  function connect() {
    clearTimeout(retry);
    stream?.close();
    const source = new EventSource("/events");
    stream = source;
    source.addEventListener("server", (event) => {
      heard = Date.now();
      const { server: description, ceiling } = JSON.parse(event.data);
      // Another process counts anew: there is nothing to take a difference from.
      if (description.started !== server?.started) before = null;
      server = { ...description, ceiling, at: new Map(description.families.map(({ name }, i) => [name, i])) };
      facts.workers.textContent = whole(description.workers);
      facts.driver.textContent = description.driver;
      facts.version.textContent = description.version;
    });
    source.addEventListener("message", (event) => {
      heard = Date.now();
      keep(JSON.parse(event.data));
      tell();
    });
    source.addEventListener("error", () => {
      // A browser comes back by itself, unless it was answered with anything but a stream.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(retry);
        retry = setTimeout(connect, RETRY_MS);
      }
      tell();
    });
  }

  // A connection that is gone without a word, as after a computer has slept, is one that has been silent for long.
  setInterval(() => {
    if (stream?.readyState === EventSource.OPEN && heard !== null && Date.now() - heard > 2 * LATE_MS) {
      heard = Date.now() - LATE_MS;
      connect();
    }
    tell();
  }, 1_000);

  // ---- keys

  function pause(on) {
    paused = on;
    $("pause").setAttribute("aria-pressed", String(on));
    $("pause-text").textContent = on ? "Go on" : "Pause";
    shown = on ? history.slice() : history;
    draw();
    tell();
  }

  $("pause").addEventListener("click", () => pause(!paused));
  document.addEventListener("keydown", (event) => {
    const own = event.target instanceof Element && event.target.closest("button, a, summary, input");
    if (event.key === " " && !own && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      pause(!paused);
    }
    if (event.key === "Escape") choose(null);
  });

  draw();
  connect();
})();
