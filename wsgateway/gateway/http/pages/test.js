"use strict";

const ROWS = 200;
const SHOWN_CHARACTERS = 10000;
const SHOWN_BYTES = 64;

const page = JSON.parse(document.getElementById("page").textContent);
const byId = (id) => document.getElementById(id);
const address = new URL("ws", document.baseURI);
address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
const UNREACHABLE = "The server does not answer. Check that it is running.";
const MEANINGS = {
  1000: "normal closure",
  1001: "the server or the page has ended",
  1002: "data that violates the WebSocket protocol",
  1003: "a type of message that is not accepted",
  1005: "closed without a code",
  1006: "the connection broke without a close frame, because the network failed, or a proxy or the server has ended",
  1007: "text that is not UTF-8",
  1008: "a violation of the server's rules",
  1009: "a message is larger than max_message_size",
  1011: "the server has failed, and its log contains the reason",
  1012: "the gateway restarts or stops",
  1013: "the server is too busy, try again later",
  3008: "the client is too slow, as limited by outbox_bytes, outbox_messages, send_timeout, and slow_policy",
  3013: "the client has sent too many messages",
};

function mayComeBack(code) {
  return (code < 3000 && code !== 1009) || (code >= 3000 && code < 3500) || (code >= 4000 && code < 4500);
}

// A reason may be a JSON object {"reason", "reconnect", "retry_after_ms"}, and its "reconnect" then decides.
function explainClose(code, reason) {
  let [text, back, wait] = [reason, mayComeBack(code), ""];
  try {
    const parsed = JSON.parse(reason);
    if (typeof parsed.reason === "string") text = parsed.reason;
    if (typeof parsed.reconnect === "boolean") back = parsed.reconnect;
    if (Number.isFinite(parsed.retry_after_ms)) wait = ` after ${parsed.retry_after_ms} ms`;
  } catch {
    // most reasons are plain text
  }
  const meaning = MEANINGS[code] ?? (code < 3000 ? "a code of the WebSocket protocol" : "a hook of the listener, or a call of close, has closed the connection");
  const rule = back ? `A client may reconnect${wait}.` : "A client must not reconnect by itself.";
  return `Closed with ${code}${text ? ` “${text}”` : ""}: ${meaning}. ${rule}`;
}

async function problemOf(response) {
  const type = response.headers.get("content-type") ?? "";
  const problem = type.startsWith("application/problem+json") ? await response.json().catch(() => null) : null;
  if (!problem) return `HTTP ${response.status}, but not from the gateway: a proxy between may have answered.`;
  const detail = (problem.detail ?? "no reason given").replace(/[^.!?]$/, "$&.");
  return `${problem.status} ${problem.title}: ${detail} See ${problem.help ?? page.docs}.`;
}

// A browser hides the answer to a refused handshake, so the page sends the same request over plain HTTP.
async function explainRefusal() {
  try {
    const response = await fetch("ws", { method: "POST", cache: "no-store" });
    if (response.status !== 426) return `Refused. ${await problemOf(response)}`;
    const ready = await fetch("ready", { cache: "no-store" });
    if (!ready.ok) return `Refused. ${await problemOf(ready)}`;
  } catch {
    return UNREACHABLE;
  }
  return "Refused, although allowed_origins and allowed_hosts allow this page. Either the listener's on_handshake or a limit has "
    + `refused it, or a proxy does not forward WebSockets. The gateway's log contains the reason. See ${page.docs}.`;
}

function hex(bytes, separator) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(separator);
}

function describe(data) {
  if (typeof data === "string") {
    if (data.length <= SHOWN_CHARACTERS) return data;
    return `${data.slice(0, SHOWN_CHARACTERS)}… (${data.length} characters)`;
  }
  const rest = data.byteLength > SHOWN_BYTES ? " …" : "";
  return `binary, ${data.byteLength} bytes: ${hex(new Uint8Array(data).subarray(0, SHOWN_BYTES), " ")}${rest}`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

class Client {
  constructor(name) {
    this.name = name;
    this.id = null;
    this.socket = null;
    const root = byId("client").content.cloneNode(true).querySelector("section");
    const find = (selector) => root.querySelector(selector);
    this.parts = {
      root, state: find(".state"), toggle: find(".toggle"), id: find(".id"), notice: find(".notice"),
      log: find(".log"), rows: find("ol"), form: find("form"), send: find("[type=submit]"),
    };
    const title = find("h2");
    title.textContent = `Client ${name}`;
    title.id = `client-${name}`;
    root.setAttribute("aria-labelledby", title.id);
    this.parts.log.setAttribute("aria-label", `Messages of client ${name}`);
    this.parts.toggle.addEventListener("click", () => (this.socket ? this.disconnect() : this.connect()));
    find(".clear").setAttribute("aria-label", `Clear the messages of client ${name}`);
    find(".clear").addEventListener("click", () => this.parts.rows.replaceChildren());
    this.parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(this.parts.form.elements.message.value);
      this.parts.form.reset();
    });
    byId("clients").append(root);
    this.show("closed");
  }

  show(state, notice = "", isWrong = true) {
    const parts = this.parts;
    parts.root.dataset.state = state;
    parts.state.textContent = state;
    parts.toggle.textContent = this.socket ? "Disconnect" : "Connect";
    parts.toggle.setAttribute("aria-label", `${parts.toggle.textContent} client ${this.name}`);
    parts.send.disabled = state !== "open";
    parts.notice.textContent = notice;
    parts.notice.hidden = notice === "";
    parts.notice.classList.toggle("calm", !isWrong);
  }

  connect() {
    const token = hex(crypto.getRandomValues(new Uint8Array(8)), "");
    const socket = new WebSocket(`${address.href}/test-page/${token}`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.addEventListener("open", () => this.opened(socket, token));
    socket.addEventListener("message", (event) => this.row("received", describe(event.data)));
    socket.addEventListener("close", (event) => this.closed(socket, event));
    this.show("connecting");
  }

  disconnect() {
    const { socket } = this;
    // Only a connection that was open ends with a code to show, in the answer to its close frame.
    const answered = socket.readyState === WebSocket.OPEN;
    if (!answered) this.socket = null;
    socket.close(1000);
    this.show(answered ? "closing" : "closed");
  }

  async closed(socket, { code, reason }) {
    if (socket !== this.socket) return;
    const opened = this.parts.root.dataset.state !== "connecting";
    this.socket = null;
    this.parts.id.textContent = "none";
    this.row("note", `${opened ? "closed" : "refused"} with ${code} ${reason}`.trim());
    if (opened) this.show("closed", explainClose(code, reason), code !== 1000);
    else this.show("refused", "Refused before it was open. Asking the server for the reason…");
    const why = opened ? null : await explainRefusal();
    if (why !== null && this.socket === null) this.show("refused", why);
  }

  // The gateway sends nothing by itself, so the page asks for the id of its connection, by a path that only it knows.
  async opened(socket, token) {
    this.show("open");
    this.row("note", "opened");
    let id = null;
    for (let attempt = 0; attempt < 5 && id === null; attempt += 1) {
      if (attempt) await new Promise((resolve) => { setTimeout(resolve, 100); });
      const asked = fetch(`pages/connection?path=/ws/test-page/${token}`, { cache: "no-store" });
      const answer = await asked.then((response) => (response.ok ? response.json() : {})).catch(() => ({}));
      id = answer.id ?? null;
      if (socket !== this.socket) return;
    }
    this.parts.id.textContent = id ?? "unknown";
    if (id === null) return;
    this.id = id;
    pushForm.elements.to.querySelector(`[value=${this.name}]`).disabled = false;
    showCurl();
  }

  send(text) {
    this.socket.send(text);
    this.row("sent", describe(text));
  }

  row(way, text) {
    const { log, rows } = this.parts;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    const now = new Date();
    const time = element("time", "", `${now.toLocaleTimeString("en-GB")}.${String(now.getMilliseconds()).padStart(3, "0")}`);
    const content = element("span", "text", text);
    content.dir = "auto";
    const row = element("li", way, "");
    row.append(time, element("span", "way", way), content);
    rows.append(row);
    while (rows.childElementCount > ROWS) rows.firstElementChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

const pushForm = document.querySelector("#push form");
const asksForKey = !page.push_allowed && page.push_refusal === null;
const clients = {};

// JSON goes into the body as it was typed, because a large number would change if it were parsed and written again.
function pushBody() {
  const { message, to, json } = pushForm.elements;
  let written = JSON.stringify(message.value);
  if (json.checked) {
    JSON.parse(message.value);
    written = message.value.trim();
  }
  const connections = to.value ? `,"connections":${JSON.stringify([clients[to.value].id])}` : "";
  return `{"id":${JSON.stringify(page.id)},"message":${written}${connections}}`;
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function curlLine() {
  const words = ["curl -H 'content-type: application/json'"];
  // The key is not written out, because it was typed into a password field.
  if (asksForKey) words.push('-H "authorization: Bearer $KEY"');
  words.push(`-d ${quoted(pushBody())}`, quoted(new URL("send", document.baseURI).href));
  return words.join(" ");
}

function showCurl() {
  const submit = pushForm.querySelector("[type=submit]");
  byId("copied").textContent = "";
  const copy = document.querySelector("[data-of=curl]");
  try {
    byId("curl").textContent = curlLine();
    submit.disabled = false;
  } catch (error) {
    byId("curl").textContent = `The message is not JSON: ${error.message}`;
    submit.disabled = true;
  }
  copy.disabled = submit.disabled;
}

async function push() {
  const key = pushForm.elements.key.value;
  const headers = { "content-type": "application/json" };
  // fetch sends each character of a header as one byte, and the gateway reads the key as UTF-8.
  if (key) headers.authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  try {
    const response = await fetch("send", { method: "POST", headers, body: pushBody(), cache: "no-store" });
    if (!response.ok) return { good: false, text: await problemOf(response) };
    const { id, recipients, queued, dropped } = await response.json();
    return { good: true, text: `Sent to ${plural(recipients, "connection")} of ${id}: ${queued} queued, ${dropped} dropped.` };
  } catch {
    return { good: false, text: UNREACHABLE };
  }
}

async function copyText({ currentTarget: button }) {
  const source = byId(button.dataset.of);
  let [label, notice] = ["Copied", "Copied."];
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Over plain http a page has no clipboard, except on localhost.
    getSelection().selectAllChildren(source);
    if (!document.execCommand("copy")) [label, notice] = ["Selected", "Selected. Copy it with the keyboard."];
  }
  byId("copied").textContent = notice;
  button.textContent = label;
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// A narrow page then breaks an address before a part of its path, not inside one. The text that is copied stays the same.
function breakAtSlashes(code) {
  const parts = code.textContent.split(/(?<=[^/])(?=\/[^/])/);
  code.replaceChildren(...parts.flatMap((part) => [document.createElement("wbr"), part]).slice(1));
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function start() {
  for (const part of document.querySelectorAll("[data-scripted]")) part.hidden = false;
  const texts = {
    gateway: page.id, version: page.version, connections: plural(page.connections, "other connection"), docs: page.docs,
    address: address.href, send: new URL("send", document.baseURI).href, script: new URL("client.js", document.baseURI).href,
  };
  for (const [id, text] of Object.entries(texts)) byId(id).textContent = text;
  for (const id of ["address", "script", "send"]) breakAtSlashes(byId(id));
  byId("panel").href = page.panel;
  byId("panel").hidden = !page.panel;
  if (page.panel) byId("log").href = `${page.panel}/log`;
  byId("push-refusal").textContent = page.push_refusal ?? "";
  byId("push-refusal").hidden = page.push_refusal === null;
  for (const id of ["key", "curl-hint"]) byId(id).hidden = !asksForKey;
  pushForm.addEventListener("input", showCurl);
  pushForm.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { good, text } = await push();
    byId("push-result").textContent = text;
    byId("push-result").className = good ? "good" : "bad";
  });
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", copyText);
  showCurl();
  const browser = byId("browser");
  if (typeof WebSocket === "undefined") {
    browser.textContent = "This browser does not support WebSockets, or a policy or an extension has turned them off.";
    return;
  }
  browser.textContent = "This browser supports WebSockets.";
  browser.className = "good";
  for (const name of ["A", "B"]) {
    clients[name] = new Client(name);
    clients[name].connect();
  }
}

start();
