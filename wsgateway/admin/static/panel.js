// Keeps the pages live. They also work without this script, because forms and links are plain.
"use strict";

const { gateway, connection } = document.body.dataset;
let before = null; // the push before, from which rates are computed
let states = null; // unknown until the first push, because the page may be older

function text(selector, root, value) {
  for (const element of root.querySelectorAll(selector)) element.textContent = value;
}

function age(seconds) {
  const pair = (number) => String(Math.floor(number)).padStart(2, "0");
  const days = Math.floor(seconds / 86400);
  return (days ? `${days}d ` : "") + `${pair((seconds % 86400) / 3600)}:${pair((seconds % 3600) / 60)}:${pair(seconds % 60)}`;
}

// Shows the figures of each gateway in its row, and the sums over all
function showList(pushed) {
  const sums = { connections: 0, in: 0, out: 0, dropped: 0, running: 0 };
  for (const now of pushed.gateways) {
    sums.connections += now.connections;
    sums.running += Number(now.state === "running");
    const rates = ratesOf(now, pushed);
    for (const name of ["in", "out", "dropped"]) sums[name] += rates[name] || 0;
    const row = document.querySelector(`tr[data-gateway="${CSS.escape(now.id)}"]`);
    if (!row) continue;
    text("[data-total=connections]", row, now.connections);
    for (const name of ["in", "out"]) text(`[data-rate=${name}]`, row, shown(rates[name]));
    if (rates.in != null) drawCurve(row.querySelector(".spark"), now.id, rates.in + rates.out);
  }
  text("[data-sum=connections]", document, sums.connections);
  text("[data-sum=running]", document, sums.running);
  if (before) for (const name of ["in", "out", "dropped"]) text(`[data-sum=${name}]`, document, shown(sums[name]));
}

// Returns the rates of a gateway since the previous push. A restarted gateway begins at zero
function ratesOf(now, pushed) {
  const last = before && before.gateways.find((each) => each.id === now.id);
  const rate = (name) => (last ? Math.max(0, now[name] - last[name]) / (pushed.now - before.now) : null);
  return { in: rate("in"), out: rate("out"), dropped: rate("dropped") };
}

function showGateway(pushed) {
  const now = pushed.gateways.find((each) => each.id === gateway);
  if (now) for (const name of ["connections", "in", "out", "dropped"]) text(`[data-total=${name}]`, document, now[name]);
}

let refreshes = 0;

function take(pushed) {
  const isMeasured = !before || pushed.now - before.now >= 0.9; // else a push because of a change, too early for a rate
  if (isMeasured) {
    if (document.querySelector("tr[data-gateway]")) showList(pushed);
    before = pushed;
  }
  if (gateway) showGateway(pushed);
  drawCharts(gateway ? pushed.gateways.filter(({ id }) => id === gateway) : pushed.gateways);
  if (connection && pushed.connection) showConnection(pushed.connection); // of gateway.js
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
let folded = new Map();
let scrolled = null;
let focused = null;
const nameOf = (element) => [element.tagName, element.id, element.name, element.value, element.href, element.formAction].join();
document.addEventListener("htmx:beforeSwap", (event) => {
  const target = event.detail.target;
  selected = new Set(Array.from(target.querySelectorAll("input:checked"), (box) => box.id || box.value));
  folded = new Map(Array.from(target.querySelectorAll("details[id]"), (details) => [details.id, details.open]));
  scrolled = target.id === "log" ? target.scrollTop + target.clientHeight > target.scrollHeight - 20 ? Infinity : target.scrollTop : null;
  focused = target.contains(document.activeElement) ? nameOf(document.activeElement) : null;
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of document.querySelectorAll("tbody input[type=checkbox], #connect input")) if (selected.has(box.id || box.value)) box.checked = true;
  for (const details of document.querySelectorAll("details[id]")) details.open = folded.get(details.id) ?? details.open;
  const again = focused && Array.from(document.querySelectorAll("main a, main button, main input, #log")).find((element) => nameOf(element) === focused);
  if (again) again.focus({ preventScroll: true });
  const log = document.getElementById("log");
  if (log && scrolled !== null) log.scrollTop = Math.min(scrolled, log.scrollHeight);
});

// An action that does nothing for the selected gateways cannot be pressed
function offerActions() {
  const rows = Array.from(document.querySelectorAll("tr[data-actions]")).filter((row) => row.querySelector("input:checked"));
  for (const button of document.querySelectorAll("#gateways button[name=action]")) {
    button.disabled = rows.length > 0 && !rows.some((row) => row.dataset.actions.split(" ").includes(button.value));
  }
}
document.addEventListener("change", offerActions);
document.addEventListener("htmx:afterSwap", offerActions);

// Buttons that copy a text, also those that a refresh brings
function showCopies() {
  for (const button of document.querySelectorAll(".copy[hidden]")) button.hidden = !navigator.clipboard;
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy || button.parentElement.querySelector(".code").textContent.trimEnd());
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
});
document.addEventListener("htmx:afterSwap", showCopies);
showCopies();

const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
if ("live" in document.body.dataset) document.addEventListener("DOMContentLoaded", watch); // when gateway.js has run, too
