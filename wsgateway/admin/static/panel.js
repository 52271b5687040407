// Keeps the pages live. They also work without this script, because forms and links are plain.
"use strict";

const { gateway, connection } = document.body.dataset;
const KEPT = 120; // seconds in a chart
const series = new Map(); // by gateway: times and rates
let before = null;
let states = null; // unknown until the first push, because the page may be older

function text(selector, root, value) {
  for (const element of root.querySelectorAll(selector)) element.textContent = value;
}

function clock(seconds) {
  const pair = (number) => String(Math.floor(number)).padStart(2, "0");
  const days = Math.floor(seconds / 86400);
  return (days ? `${days}d ` : "") + `${pair((seconds % 86400) / 3600)}:${pair((seconds % 3600) / 60)}:${pair(seconds % 60)}`;
}

// Computes the rates of each gateway since the previous push. A restarted gateway begins at zero
function measured(pushed) {
  const seconds = before ? pushed.now - before.now : 0;
  if (before && seconds < 0.9) return false; // a push because of a change, too early for a rate
  for (const now of pushed.gateways) {
    const last = before && before.gateways.find((each) => each.id === now.id);
    const rate = (name) => (last && seconds ? Math.max(0, now[name] - last[name]) / seconds : null);
    const hooks = last ? now.hooks - last.hooks : 0;
    const points = series.get(now.id) || { time: [], connections: [], in: [], out: [], dropped: [], hook: [] };
    series.set(now.id, points);
    const values = {
      time: Date.now() / 1000, connections: now.connections, in: rate("in"), out: rate("out"), dropped: rate("dropped"),
      hook: hooks > 0 ? ((now.hook_seconds - last.hook_seconds) / hooks) * 1000 : null,
    };
    for (const name of Object.keys(points)) {
      points[name].push(values[name]);
      if (points[name].length > KEPT) points[name].shift();
    }
  }
  before = pushed;
  return true;
}

const shown = (rate) => (rate == null ? "–" : rate < 10 && rate > 0 ? rate.toFixed(1) : String(Math.round(rate)));
const newest = (points, name) => (points && points[name].length ? points[name][points[name].length - 1] : null);

function showList(pushed) {
  for (const row of document.querySelectorAll("tr[data-gateway]")) {
    const now = pushed.gateways.find((each) => each.id === row.dataset.gateway);
    if (!now) continue;
    const points = series.get(now.id);
    text("[data-total=connections]", row, now.connections);
    for (const name of ["in", "out"]) text(`[data-rate=${name}]`, row, shown(newest(points, name)));
    const rates = points.in.map((value, place) => (value || 0) + (points.out[place] || 0));
    const most = Math.max(1, ...rates);
    const drawn = rates.map((rate, place) => `${120 - (rates.length - 1 - place)},${(23 - (22 * rate) / most).toFixed(1)}`);
    row.querySelector("polyline").setAttribute("points", drawn.join(" "));
  }
}

let charts = null;

function drawCharts() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = () => ({ stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } });
  const make = (title, names, labels) => {
    const box = document.createElement("div");
    box.className = "chart";
    document.getElementById("charts").append(box);
    const colours = [colour("--accent"), colour("--wait")];
    const line = (label, place) => ({ label, stroke: colours[place], width: 2, points: { show: false } });
    const chart = new uPlot(
      { title, width: box.clientWidth - 16, height: 150, scales: { y: { range: (_, low, high) => [0, Math.max(1, high || 0)] } },
        axes: [axis(), { ...axis(), size: 50 }], series: [{}, ...labels.map(line)], cursor: { y: false }, legend: { show: labels.length > 1, live: false } },
      [[], ...names.map(() => [])], box);
    addEventListener("resize", () => chart.setSize({ width: box.clientWidth - 16, height: 150 }));
    return { chart, names };
  };
  return [
    make("Connections", ["connections"], ["open"]),
    make("Messages per second", ["in", "out"], ["in", "out"]),
    make("Dropped per second", ["dropped"], ["dropped"]),
    make("Time of a hook, ms", ["hook"], ["mean"]),
  ];
}

function showGateway(pushed) {
  const now = pushed.gateways.find((each) => each.id === gateway);
  if (!now) return;
  for (const name of ["connections", "in", "out", "dropped"]) text(`[data-total=${name}]`, document, now[name]);
  charts = charts || drawCharts();
  const points = series.get(gateway);
  for (const { chart, names } of charts) chart.setData([points.time, ...names.map((name) => points[name])]);
}

function showConnection(own) {
  for (const [name, value] of Object.entries(own)) {
    if (name !== "events" && name !== "open") text(`[data-own=${name}]`, document, name === "age" ? clock(value) : value);
  }
  const open = document.getElementById("open");
  open.dataset.state = own.open ? "running" : "stopped";
  if (open.lastElementChild.textContent !== (own.open ? "open" : "closed")) open.lastElementChild.textContent = own.open ? "open" : "closed";
  const body = document.querySelector("#events tbody");
  for (const [at, what, size, note] of own.events) {
    const row = body.insertRow(0);
    for (const value of [new Date(at * 1000).toISOString().slice(11, 23), what, size ?? "", note]) row.insertCell().textContent = value;
    row.cells[2].className = "number";
  }
  while (body.rows.length > 100) body.deleteRow(-1);
}

let refreshes = 0;

function take(pushed) {
  const isMeasured = measured(pushed);
  if (document.querySelector("tr[data-gateway]")) showList(pushed);
  if (document.getElementById("charts")) showGateway(pushed);
  if (connection && pushed.connection) showConnection(pushed.connection);
  const current = JSON.stringify(pushed.gateways.map(({ id, state, failure }) => [id, state, failure]));
  if (states !== current) htmx.trigger(document.body, "changed");
  states = current;
  const follow = document.getElementById("follow");
  refreshes += Number(isMeasured);
  if (isMeasured && refreshes % 2 && !document.hidden && !(follow && !follow.checked)) htmx.trigger(document.body, "refreshed");
}

let wait = 500;

function watch() {
  const url = new URL("live", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  if (connection) url.search = new URLSearchParams({ gateway, connection });
  const socket = new WebSocket(url);
  const link = document.getElementById("link");
  socket.onmessage = (event) => {
    wait = 500;
    if (link.textContent !== "live") link.textContent = "live";
    link.classList.add("on");
    take(JSON.parse(event.data));
  };
  socket.onclose = () => {
    link.textContent = "not live";
    link.classList.remove("on");
    setTimeout(watch, wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, 10000);
  };
}

// A refresh replaces the content of an element and not the element, so a change that arrives meanwhile waits for it.
// Selected boxes and the position in the log survive a refresh
let selected = new Set();
let scrolled = null;
let focused = null;
const nameOf = (element) => [element.tagName, element.id, element.name, element.value, element.href, element.formAction].join();
document.addEventListener("htmx:beforeSwap", (event) => {
  const target = event.detail.target;
  selected = new Set(Array.from(target.querySelectorAll("input:checked"), (box) => box.value));
  scrolled = target.id === "log" ? target.scrollTop + target.clientHeight > target.scrollHeight - 20 ? Infinity : target.scrollTop : null;
  focused = target.contains(document.activeElement) ? nameOf(document.activeElement) : null;
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of document.querySelectorAll("tbody input[type=checkbox]")) if (selected.has(box.value)) box.checked = true;
  const again = focused && Array.from(document.querySelectorAll("main a, main button, main input, #log")).find((element) => nameOf(element) === focused);
  if (again) again.focus({ preventScroll: true });
  const log = document.getElementById("log");
  if (log && scrolled !== null) log.scrollTop = Math.min(scrolled, log.scrollHeight);
});

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
if ("live" in document.body.dataset) watch();
