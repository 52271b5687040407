// Draws the charts of a page: the last hour, which the page brings along, and from then on what is pushed.
//
// A template places a chart, and once for all charts the past, with macros of macros.html:
//   {{ trend(text) }}   where `text` is `trend_of(trends)` of admin/trends.py: of one gateway, or the sum over several
//   {{ chart("Messages per second", "in out", "No messages in this period.") }}
// which write
//   <figure class="chart" data-title="…" data-series="in out" data-nothing="…"><figcaption>…</figcaption></figure>
// `data-series` names one or two of connections, in, out, dropped, hook. <body data-gateway="…"> is the gateway whose figures are
// pushed; without it, the charts show the sum over all.
"use strict";

const STEP = 10; // seconds between two points, as the server samples
const HOUR = 3600;
const COLUMNS = ["at", "connections", "in", "out", "dropped", "hook"];
const NAMES = { connections: "open", in: "in", out: "out", dropped: "dropped", hook: "mean" };
const timeOf = (seconds, withSeconds = true) =>
  new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", ...(withSeconds ? { second: "2-digit" } : {}), hourCycle: "h23" }).format(seconds * 1000);

function shown(value, unit = "") {
  if (value == null) return "–";
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 1 ? 1 : 2;
  const short = value >= 1e6 ? `${(value / 1e6).toFixed(1)}M` : value >= 1e4 ? `${(value / 1e3).toFixed(1)}k` : value.toFixed(digits);
  return unit ? `${short} ${unit}` : short;
}

// Keeps the points of the last hour. The newest point moves with every push, until its step is over
class Trend {
  constructor(text) {
    const past = text ? JSON.parse(text) : {};
    for (const name of COLUMNS) this[name] = past[name] || [];
    this.skew = past.now ? past.now - Date.now() / 1000 : 0; // the clock of the server may differ from the viewer's
    this.base = null; // the counters at the beginning of the step
    this.moving = false;
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  push(gateways) {
    const now = this.now();
    const step = Math.floor(now / STEP);
    if (!this.base || (step !== this.base.step && now - this.base.now >= 1)) {
      if (this.base) this.put(now, gateways);
      this.base = { step, now, gateways };
      this.moving = false;
    } else if (now - this.base.now >= 1) this.put(now, gateways);
  }

  put(now, gateways) {
    const { now: since, gateways: before } = this.base;
    const grown = (name) =>
      gateways.reduce((sum, each) => sum + Math.max(0, each[name] - (before.find(({ id }) => id === each.id) || each)[name]), 0);
    const hooks = grown("hooks");
    const point = {
      at: now, connections: gateways.reduce((sum, each) => sum + each.connections, 0), hook: hooks ? (grown("hook_seconds") / hooks) * 1000 : null,
    };
    for (const name of ["in", "out", "dropped"]) point[name] = grown(name) / (now - since);
    for (const name of COLUMNS) {
      if (this.moving) this[name].pop();
      this[name].push(point[name]);
    }
    this.moving = true;
    while (this.at[0] < now - HOUR) for (const name of COLUMNS) this[name].shift();
  }

  newest(name) {
    return this[name][this[name].length - 1];
  }
}

const SVG = "http://www.w3.org/2000/svg";
function element(parent, name, attributes, content = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = content;
  parent.append(made);
  return made;
}

const NICE = [1, 2, 5];
function topOf(highest, whole) {
  let power = whole ? 1 : 10 ** Math.floor(Math.log10(highest / 4));
  for (; ; power *= 10) {
    for (const factor of NICE) if (factor * power * 4 >= highest * 1.05) return factor * power;
  }
}

const TIMES = [10, 30, 60, 120, 300, 600, 900, 1200, 1800];
const LEFT = 44;
const BOTTOM = 22;

class Chart {
  constructor(figure, trend) {
    this.figure = figure;
    this.trend = trend;
    this.series = figure.dataset.series.split(" ");
    this.unit = figure.dataset.unit || "";
    this.range = HOUR;
    this.cursor = null; // the time under the pointer
    const caption = figure.querySelector("figcaption");
    caption.textContent = figure.dataset.title;
    this.readout = caption.appendChild(document.createElement("output"));
    this.svg = element(figure, "svg", { role: "img", tabindex: "0" });
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.moveTo(null));
    this.svg.addEventListener("blur", () => this.moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // The indexes of the points in the range
  indexes() {
    const end = this.trend.now();
    this.end = end;
    const first = this.trend.at.length ? this.trend.at[0] : end;
    this.start = Math.max(end - this.range, Math.min(first, end - 300));
    return Array.from(this.trend.at.keys()).filter((index) => this.trend.at[index] >= this.start);
  }

  x(time) {
    return LEFT + ((time - this.start) / (this.end - this.start)) * (this.width - LEFT - 8);
  }

  y(value) {
    return 8 + (1 - value / this.top) * (this.height - BOTTOM - 8);
  }

  draw() {
    this.width = this.svg.clientWidth;
    this.height = this.svg.clientHeight;
    if (!this.width) return; // it is not visible
    const indexes = this.indexes();
    const values = this.series.flatMap((name) => indexes.map((index) => this.trend[name][index]));
    const highest = Math.max(0, ...values.filter((value) => value != null));
    const tick = topOf(highest || 4, this.series[0] === "connections");
    this.top = tick * 4;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
    this.rulers(tick);
    if (highest > 0) this.series.forEach((name, place) => this.line(name, place, indexes));
    else element(this.svg, "text", { class: "nothing", x: (this.width + LEFT) / 2, y: this.y(2.5 * tick) + 5, "text-anchor": "middle" }, this.figure.dataset.nothing);
    this.svg.setAttribute("aria-label", this.summary(indexes));
    this.point();
  }

  rulers(tick) {
    const digits = Math.max(0, -Math.floor(Math.log10(tick)));
    for (let step = 0; step <= 4; step++) {
      const y = Math.round(this.y(step * tick)) + 0.5;
      element(this.svg, "line", { class: "ruler", x1: LEFT, x2: this.width - 8, y1: y, y2: y });
      element(this.svg, "text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, step * tick >= 1e4 ? shown(step * tick) : (step * tick).toFixed(digits));
    }
    const span = this.end - this.start;
    const most = Math.max(2, Math.floor((this.width - LEFT) / 75)); // labels
    const step = TIMES.find((seconds) => span / seconds <= most) || HOUR;
    const zone = new Date().getTimezoneOffset() * 60;
    for (let time = Math.ceil((this.start - zone) / step) * step + zone; time <= this.end; time += step) {
      const x = this.x(time);
      if (x < LEFT + 16 || x > this.width - 24) continue; // its label would be cut off
      element(this.svg, "text", { x, y: this.height - 4, "text-anchor": "middle" }, timeOf(time, step < 60));
    }
  }

  line(name, place, indexes) {
    const { at } = this.trend;
    const parts = []; // without a line over the time of a stopped server
    let last = null;
    for (const index of indexes) {
      const value = this.trend[name][index];
      if (value == null) continue;
      if (last === null || at[index] - last > 3 * STEP) parts.push([]);
      parts[parts.length - 1].push([this.x(at[index]).toFixed(1), this.y(value).toFixed(1)]);
      last = at[index];
    }
    const kind = place ? "second" : "first";
    for (const part of parts) {
      const drawn = `M${part.map((point) => point.join(",")).join("L")}`;
      if (!place) element(this.svg, "path", { class: "area", d: `${drawn}L${part[part.length - 1][0]},${this.y(0)}L${part[0][0]},${this.y(0)}Z` });
      if (part.length > 1) element(this.svg, "path", { class: kind, d: drawn });
      else element(this.svg, "circle", { class: kind, cx: part[0][0], cy: part[0][1], r: 3 });
    }
  }

  // What a screen reader reads of the picture
  summary(indexes) {
    const minutes = Math.max(1, Math.round((this.end - this.start) / 60));
    const texts = this.series.map((name) => {
      const values = indexes.map((index) => this.trend[name][index]).filter((value) => value != null);
      if (!values.length) return `${NAMES[name]}: no values`;
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return `${NAMES[name]}: now ${shown(values[values.length - 1], this.unit)}, from ${shown(low)} to ${shown(high)}`;
    });
    return `${this.figure.dataset.title}, last ${minutes} minutes. ${texts.join("; ")}`;
  }

  // Shows the values under the pointer, at `x`; without it, of the place before or, if there is none, of now
  point(x) {
    if (x !== undefined) this.cursor = this.start + ((x - LEFT) / (this.width - LEFT - 8)) * (this.end - this.start);
    for (const old of this.svg.querySelectorAll(".cursor, .under")) old.remove();
    const { at } = this.trend;
    let index = at.length - 1;
    if (this.cursor !== null && at.length) {
      const visible = at.findIndex((time) => time >= this.start);
      while (index > visible && Math.abs(at[index - 1] - this.cursor) <= Math.abs(at[index] - this.cursor)) index--;
      const across = Math.round(this.x(at[index])) + 0.5;
      element(this.svg, "line", { class: "cursor", x1: across, x2: across, y1: 8, y2: this.height - BOTTOM });
      this.series.forEach((name, place) => {
        const value = this.trend[name][index];
        if (value != null) element(this.svg, "circle", { class: `under ${place ? "second" : "first"}`, cx: across, cy: this.y(value), r: 4 });
      });
    }
    this.index = index;
    this.read(index);
  }

  read(index) {
    const parts = this.series.map((name, place) => {
      const part = document.createElement("span");
      if (place) part.className = "second";
      const value = document.createElement("b");
      value.textContent = shown(this.trend[name][index], this.unit);
      part.append(document.createElement("i"), `${NAMES[name]} `, value);
      return part;
    });
    const time = document.createElement("span");
    time.textContent = this.cursor === null || index < 0 ? "now" : timeOf(this.trend.at[index]);
    this.readout.replaceChildren(...parts, time);
  }

  moveTo(cursor) {
    this.cursor = cursor;
    this.point();
  }

  key(event) {
    const { at } = this.trend;
    const to = { ArrowLeft: this.index - 1, ArrowRight: this.index + 1, Home: at.findIndex((time) => time >= this.start), End: at.length - 1 }[event.key];
    if (event.key === "Escape") this.moveTo(null);
    if (to === undefined || !at.length) return;
    event.preventDefault();
    this.moveTo(at[Math.min(Math.max(to, 0), at.length - 1)]);
  }
}

const trend = new Trend(document.getElementById("trend")?.dataset.trend);
const charts = Array.from(document.querySelectorAll("figure.chart"), (figure) => new Chart(figure, trend));

function drawCharts(gateways) {
  trend.push(gateways);
  for (const chart of charts) chart.draw();
}

const curves = new Map(); // by gateway: messages per second in each step of the last ten minutes

// Draws the small curve of a gateway, to which a rate has been added
function drawCurve(svg, id, rate) {
  const curve = curves.get(id) || { values: JSON.parse(svg.dataset.curve), step: null, sum: 0, count: 0 };
  curves.set(id, curve);
  const step = Math.floor(trend.now() / STEP);
  if (curve.step !== step) {
    curve.values.push(0);
    curve.values.shift();
    Object.assign(curve, { step, sum: 0, count: 0 });
  }
  curve.sum += rate;
  curve.count += 1;
  curve.values[curve.values.length - 1] = curve.sum / curve.count;
  const highest = Math.max(1, ...curve.values);
  const { width, height } = svg.viewBox.baseVal;
  const across = width / (curve.values.length - 1);
  const points = curve.values.map((value, place) => `${(place * across).toFixed(1)},${(height - 1 - ((height - 2) * value) / highest).toFixed(1)}`);
  svg.firstElementChild.setAttribute("points", points.join(" "));
}

// The charts of a page show the same time
for (const choice of document.querySelectorAll("[data-range]")) {
  choice.hidden = false;
  choice.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-range]")) other.setAttribute("aria-pressed", String(other === choice));
    for (const chart of charts) {
      chart.range = Number(choice.dataset.range);
      chart.draw();
    }
  });
}
