"use strict";
// The dashboard: events in, points of a history, charts out. In this order: how numbers are written, the history, elements,
// charts, tables, the connection, keys. Everything from the server becomes text or a number, never markup.
(() => {
  const KEPT_MS = 300_000;
  const LATE_MS = 5_000;
  const GAP_MS = 2_500;
  const RETRY_MS = 2_000;
  const HALF_MINUTE_MS = 30_000;

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
      received: grown("bytes_received"),
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
    if (!paused) shown = history;
    // Of what is not the last, only the numbers that are drawn are kept.
    const older = history[history.length - 2];
    if (older && older !== last()) older.snapshot = null;
    if (!paused) draw();
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
  const plots = [];

  /** The point that was taken at this time, if one was. */
  function nearest(at) {
    const distance = (p) => Math.abs(p.t - at);
    const best = shown.reduce((best, p) => (best && distance(best) <= distance(p) ? best : p), null);
    return best && distance(best) <= GAP_MS ? best : null;
  }

  const chosen = () => (cursor === null ? last() : nearest(end() - cursor));

  function choose(at) {
    if (at === cursor) return;
    cursor = at;
    plots.forEach((plot) => plot.read());
  }

  /** A round number that is not less. */
  function ceiling(x, binary) {
    if (!(x > 0)) return 1;
    const unit = binary ? 2 ** (10 * Math.floor(Math.log2(x) / 10)) : 1;
    const ten = unit * 10 ** Math.floor(Math.log10(x / unit));
    return ten * [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((n) => n * ten >= x * 0.9999);
  }

  const fixed = (n) => n.toFixed(1);
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${fixed(x)} ${fixed(y)}`).join("");

  /** What all drawings have: a number above, a legend, and a place that a pointer and a keyboard find their way in. */
  class Plot {
    constructor(id, label) {
      this.section = $(id);
      const head = add(this.section, "div", { class: "head" });
      this.now = add(head, "p", { class: "now" });
      this.at = add(head, "span", { class: "at" });
      this.legend = add(this.section, "ul", { class: "legend" });
      this.svg = add(this.section, "svg", {
        class: "plot", tabindex: 0, role: "slider", "aria-label": label, "aria-orientation": "horizontal",
      });
      this.grid = add(this.svg, "g");
      this.marks = add(this.svg, "g");
      this.labels = add(this.svg, "g");
      this.details = fold(this.section, "As a table");
      this.width = 320;
      new ResizeObserver(([{ contentRect }]) => {
        this.width = Math.max(120, Math.round(contentRect.width));
        this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
        this.draw();
      }).observe(this.svg);
      for (const event of ["pointermove", "pointerdown"]) this.svg.addEventListener(event, (e) => this.point(e));
      for (const event of ["pointerleave", "blur"]) this.svg.addEventListener(event, () => this.leave());
      this.svg.addEventListener("keydown", (e) => this.press(e));
      plots.push(this);
    }

    /** How far to the right a pointer is, from 0 to 1. */
    part(event) {
      const box = this.svg.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    }

    /** The number above, with what it is. */
    head(number, unit) {
      this.now.replaceChildren(number);
      if (unit) add(this.now, "small", {}, ` ${unit}`);
    }

    /** What is told to those who do not see it. While they listen, only their own steps are told. */
    tell(from, to, at, text) {
      if (document.activeElement === this.svg && this.told === at) return;
      this.told = at;
      for (const [key, value] of Object.entries({ valuemin: from, valuemax: to, valuenow: at, valuetext: text })) {
        this.svg.setAttribute(`aria-${key}`, value);
      }
    }

    text(x, y, text, anchor = "start") {
      add(this.labels, "text", { class: "halo", x: fixed(x), y: fixed(y), "text-anchor": anchor }, text);
    }

    rule(x1, y1, x2, y2, kind = "grid") {
      add(this.grid, "line", { class: kind, x1: fixed(x1), x2: fixed(x2), y1: fixed(y1), y2: fixed(y2) });
    }
  }

  /**
   * A chart of the last minutes. `series` are drawn as lines, or `stacked` as areas; `values(p)` are their numbers in a point, and
   * `extra` are more that are only told. The axis ends at a round number or at `top()`, above which is written what `named()` says;
   * with `log` it is logarithmic and lies between these two.
   */
  class Chart extends Plot {
    constructor(id, label, options) {
      super(id, label);
      Object.assign(this, { extra: [], big: ([first]) => [first] }, options);
      this.columns = [...this.series, ...this.extra];
      this.entries = this.columns.map(({ name, color }) => {
        const item = add(this.legend, "li");
        if (color) add(item, "i", { class: `swatch ${color}`, "aria-hidden": "true" });
        add(item, "span", {}, name);
        return add(item, "b");
      });
      this.fill = table(this.details, `${label}, by half a minute`, [
        { title: "until" }, ...this.columns.map(({ name }) => ({ title: name, kind: "n" })),
      ]);
      this.line = add(this.svg, "line", { class: "cursor", y1: TOP - 8, y2: BOTTOM });
    }

    x(t) {
      return (1 - (end() - t) / reach()) * this.width;
    }

    draw() {
      const y = this.axis();
      this.marks.replaceChildren();
      this.series.forEach((_, n) => this.plot(n, y));
      this.read();
      if (this.details.open) this.tabulate();
    }

    /** Draws the axes; where a value stands. */
    axis() {
      this.grid.replaceChildren();
      this.labels.replaceChildren();
      const step = reach() / (reach() === KEPT_MS ? 5 : 4);
      for (let ago = step; ago < reach(); ago += step) {
        const x = this.x(end() - ago);
        this.rule(x, BOTTOM, x, BOTTOM + 3);
        this.text(x, HEIGHT - 4, `−${span(ago / 1000)}`, "middle");
      }
      this.text(this.width, HEIGHT - 4, "now", "end");
      const { part, ticks } = this.log ? this.powers() : this.evenly();
      const y = (value) => BOTTOM - Math.min(1, Math.max(0, part(value))) * (BOTTOM - TOP);
      for (const tick of ticks) {
        const at = Math.round(y(tick)) + 0.5;
        const isTop = this.named && tick === ticks[ticks.length - 1];
        this.rule(0, at, this.width, at, isTop ? "rule" : "grid");
        if (tick > 0) this.text(1, at - 3.5, isTop ? this.named(tick) : this.write(tick));
      }
      return y;
    }

    evenly() {
      const total = (p) => (this.stacked ? sum(this.values(p)) : Math.max(...this.values(p)));
      const most = Math.max(0, ...shown.map(total));
      const high = this.top?.(most) || ceiling(most, this.binary);
      return { part: (value) => value / high, ticks: [0, high / 2, high] };
    }

    powers() {
      const known = shown.flatMap(this.values).filter((value) => value !== null);
      const [least, most] = this.log.map((edge) => Math.round(Math.log10(edge)));
      // At least three powers of ten, so that a little more is not drawn as much more.
      const low = Math.min(most - 3, Math.max(least, Math.floor(Math.log10(Math.min(...known, 1e-4)))));
      const high = Math.max(low + 3, Math.min(most, Math.ceil(Math.log10(Math.max(...known, 1e-9)))));
      const ticks = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
      return { part: (value) => (Math.log10(value) - low) / (high - low), ticks };
    }

    /** One series: its points without a gap between them, each run as [x, value, what lies below]. */
    runs(n) {
      const runs = [];
      let before = -Infinity;
      for (const p of shown) {
        const values = this.values(p);
        if (values[n] === null || values[n] === undefined) {
          before = -Infinity;
          continue;
        }
        if (p.t - before > GAP_MS) runs.push([]);
        const below = this.stacked ? sum(values.slice(0, n)) : 0;
        runs[runs.length - 1].push([this.x(p.t), values[n] + below, below]);
        before = p.t;
      }
      return runs;
    }

    plot(n, y) {
      const { color } = this.series[n];
      const runs = this.runs(n);
      const upper = runs.map((run) => run.map(([x, value]) => [x, y(value)]));
      if (this.stacked || this.washed) {
        const areas = runs.map((run, i) => {
          const lower = run.map(([x, , below]) => [x, y(below)]).reverse();
          return `${path(upper[i])}${path(lower).replace("M", "L")}Z`;
        });
        add(this.marks, "path", { class: `area ${this.stacked ? "" : "wash"} ${color}`, d: areas.join("") });
      }
      if (this.stacked) return;
      // A point alone is a line of no length: its round caps are a dot.
      const lines = upper.map((run) => (run.length === 1 ? `${path(run)}h0` : path(run)));
      add(this.marks, "path", { class: `stroke ${color}`, d: lines.join("") });
    }

    /** The numbers of a point, those that are only told included, as text. */
    texts(values, extra) {
      const texts = values.map((value) => or(this.write, value));
      return [...texts, ...extra.map((value, i) => or(this.extra[i].write ?? this.write, value))];
    }

    /** Writes the numbers of the point at the cursor, or of the last. */
    read() {
      const p = chosen();
      const texts = p ? this.texts(this.values(p), this.extra.map(({ value }) => value(p))) : this.columns.map(() => "–");
      this.head(...(p ? this.big(texts, p) : ["–"]));
      this.entries.forEach((entry, i) => { entry.textContent = texts[i]; });
      this.at.textContent = cursor === null ? "" : p ? clock(p.t) : "no data";
      const x = cursor === null ? -9 : this.x(end() - cursor);
      this.line.setAttribute("x1", x);
      this.line.setAttribute("x2", x);
      const names = this.columns.map(({ name }, i) => `${name} ${texts[i]}`);
      this.tell(-reach() / 1000, 0, -Math.round((cursor ?? 0) / 1000), `${p ? clock(p.t) : "no data"}: ${names.join(", ")}`);
    }

    tabulate() {
      const rows = [];
      for (let ago = 0; ago < KEPT_MS; ago += HALF_MINUTE_MS) {
        const inside = shown.filter((p) => p.t <= end() - ago && p.t > end() - ago - HALF_MINUTE_MS);
        const mean = (read) => {
          const known = inside.map(read).filter((value) => value !== null && value !== undefined);
          return known.length ? sum(known) / known.length : null;
        };
        const values = this.series.map((_, n) => mean((p) => this.values(p)[n]));
        const extra = this.extra.map(({ value }) => mean(value));
        if (inside.length) rows.push({ cells: [clock(end() - ago), ...this.texts(values, extra)] });
      }
      this.fill(rows);
    }

    point(event) {
      choose(Math.round(((1 - this.part(event)) * reach()) / 1000) * 1000);
    }

    leave() {
      choose(null);
    }

    press(event) {
      const step = event.shiftKey ? 10_000 : 1_000;
      const from = cursor ?? 0;
      const oldest = shown.length ? Math.min(reach(), end() - shown[0].t) : 0;
      const to = {
        ArrowLeft: from + step,
        ArrowRight: from - step,
        PageUp: from + 60_000,
        PageDown: from - 60_000,
        Home: oldest,
        End: 0,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(Math.max(0, Math.min(oldest, to)));
    }
  }

  new Chart("throughput", "Throughput", {
    series: [{ name: "sent", color: "c-blue" }],
    values: (p) => [p.sent],
    extra: [{ name: "uploads", value: (p) => p.received }, { name: "transfers", value: (p) => p.transfers, write: count }],
    write: rate,
    binary: true,
    washed: true,
  });

  new Chart("requests", "Requests by class of status", {
    series: ["2xx", "3xx", "4xx", "5xx"].map((name, i) => ({ name, color: ["c-green", "c-grey", "c-warn", "c-bad"][i] })),
    values: (p) => p.answers,
    write: perSecond,
    stacked: true,
    big: (_, p) => (p.answers[0] === null ? ["–"] : [count(sum(p.answers)), "a second"]),
  });

  new Chart("first-byte", "Time to first byte", {
    series: ["p50", "p90", "p99"].map((name, i) => ({ name, color: `c-v${i + 1}` })),
    values: (p) => p.percentiles ?? [null, null, null],
    write: time,
    log: [1e-5, 100],
    big: ([, , p99]) => [p99, "p99"],
  });

  new Chart("connections", "Connections by state", {
    series: [{ name: "active", color: "c-blue" }, { name: "idle", color: "c-pale" }],
    values: (p) => [p.active, p.idle],
    extra: [
      { name: "accepted", value: (p) => p.accepted, write: perSecond },
      { name: "refused", value: (p) => p.refused, write: perSecond },
    ],
    write: count,
    stacked: true,
    big: (_, p) => [count(p.active + p.idle), "open"],
  });

  const memory = new Chart("memory", "Memory against its ceiling", {
    series: [{ name: "resident", color: "c-brand" }],
    values: (p) => [p.resident],
    write: bytes,
    washed: true,
    top: (most) => Math.max(most, server?.ceiling.bytes ?? 0),
    named: (top) => `ceiling ${bytes(top)}`,
    big: ([resident], p) => (p.resident === null || !server
      ? [resident]
      : [resident, `${percent(p.resident / server.ceiling.bytes)} of ${bytes(server.ceiling.bytes)}`]),
  });
  // One series, which the number above names already: a gauge stands where its legend would.
  const full = meter("gauge");
  memory.legend.replaceWith(full.element);
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
    const rows = (where, list, times) => list.map(([name, n, each]) => ({
      cells: [`${where}: ${name}`, bytes(each), whole(n * times), bytes(n * each * times)],
    }));
    const { ceiling } = server;
    const { workers } = ceiling;
    fillTerms([
      ...rows("process", ceiling.process, 1),
      ...rows(workers === 1 ? "worker" : "workers", ceiling.worker, workers),
      { cells: ["ceiling", "", "", bytes(ceiling.bytes)], kind: "sum" },
      ...rows("kernel, beside it", ceiling.kernel, workers),
    ]);
  }

  /** How times to the first byte were spread in the last minute: a bar for each span of time. */
  class Spread extends Plot {
    constructor(id, label) {
      super(id, label);
      const item = add(this.legend, "li");
      this.name = add(item, "span");
      this.value = add(item, "b");
      this.marked = null;
      this.counts = [];
      this.fill = table(this.details, `${label}, by spans`, [
        { title: "up to" }, { title: "requests", kind: "n" }, { title: "of all", kind: "n" },
      ]);
    }

    edge(i) {
      return i < server.first_byte_edges.length ? time(server.first_byte_edges[i]) : "longer";
    }

    share(i) {
      return percent(this.counts[i] / Math.max(1, sum(this.counts)));
    }

    draw() {
      if (!server) return;
      this.counts = server.first_byte_edges.map(() => 0).concat(0);
      for (const p of shown) {
        if (p.counts && p.t > end() - 2 * HALF_MINUTE_MS) p.counts.forEach((n, i) => { this.counts[i] += n; });
      }
      for (const group of [this.grid, this.marks, this.labels]) group.replaceChildren();
      this.rule(0, BOTTOM + 0.5, this.width, BOTTOM + 0.5);
      const step = this.width / this.counts.length;
      const most = Math.max(1, ...this.counts);
      this.counts.forEach((n, i) => {
        const height = n ? Math.max(1.5, (n / most) * (BOTTOM - TOP)) : 0;
        add(this.marks, "rect", {
          class: "bar c-v2", x: fixed(i * step + 1), y: fixed(BOTTOM - height), width: fixed(step - 2), height: fixed(height), rx: 1,
        });
      });
      server.first_byte_edges.forEach((seconds, i) => {
        const power = Math.log10(seconds);
        if (Math.abs(power - Math.round(power)) > 1e-6) return;
        this.rule((i + 1) * step, BOTTOM, (i + 1) * step, BOTTOM + 4);
        this.text((i + 1) * step, HEIGHT - 4, this.edge(i), "middle");
      });
      this.read();
      if (this.details.open) this.tabulate();
    }

    read() {
      const all = sum(this.counts);
      const at = this.counts.length ? this.marked : null;
      const name = at === null ? "each bar is a span of time" : at < this.counts.length - 1 ? `up to ${this.edge(at)}` : `over ${this.edge(at - 1)}`;
      const value = at === null ? "" : `${whole(this.counts[at])} (${this.share(at)})`;
      this.head(count(all), "requests without a body");
      this.name.textContent = name;
      this.value.textContent = value;
      [...this.marks.children].forEach((bar, i) => bar.classList.toggle("marked", i === at));
      this.tell(0, Math.max(0, this.counts.length - 1), at ?? 0, at === null ? `${whole(all)} requests` : `${name}: ${value}`);
    }

    tabulate() {
      const rows = this.counts.map((n, i) => ({ n, cells: [this.edge(i), whole(n), this.share(i)] }));
      this.fill(rows.filter(({ n }) => n > 0));
    }

    mark(i) {
      this.marked = i === null ? null : Math.min(this.counts.length - 1, Math.max(0, i));
      this.read();
    }

    point(event) {
      if (this.counts.length) this.mark(Math.floor(this.part(event) * this.counts.length));
    }

    leave() {
      this.mark(null);
    }

    press(event) {
      const to = {
        ArrowLeft: (this.marked ?? this.counts.length) - 1,
        ArrowRight: (this.marked ?? -1) + 1,
        Home: 0,
        End: this.counts.length - 1,
        Escape: null,
      }[event.key];
      if (to === undefined || !this.counts.length) return;
      event.preventDefault();
      this.mark(to);
    }
  }

  new Spread("spread", "Time to first byte in the last minute");

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
    plots.forEach((plot) => plot.draw());
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
