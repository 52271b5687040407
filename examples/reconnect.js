"use strict";

// A WebSocket that reconnects. `path` is relative to the page. All handlers are optional:
//   const live = connect("ws?name=ann", { open() {…}, message(data) {…}, close(event) {…}, status(state, ms) {…} });
//   live.send("hi");   // false if it is not connected, because nothing is queued
//   live.close();      // and it stays closed
// `status` is called with "connecting", "open", "waiting" (`ms` until the next attempt), and "closed" (for good).
function connect(path, handlers = {}, { base = 500, cap = 20_000, stable = 5_000 } = {}) {
  let socket, timer, attempts = 0, over = false;
  const tell = (name, ...values) => handlers[name]?.(...values);

  function open() {
    const url = new URL(path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.hash = "";
    tell("status", "connecting");
    socket = new WebSocket(url);
    socket.onopen = () => {
      timer = setTimeout(() => { attempts = 0; }, stable); // one that opens and closes immediately must not reconnect fast
      tell("status", "open");
      tell("open");
    };
    socket.onmessage = (event) => tell("message", event.data);
    socket.onclose = (event) => {
      clearTimeout(timer);
      const { reconnect = comesBack(event.code), retry_after_ms = 0 } = details(event.reason);
      over ||= !reconnect;
      // Full jitter: any delay up to the limit, so a thousand clients do not reconnect at the same moment.
      const limit = Math.min(cap, base * 2 ** attempts++);
      const delay = Math.min(retry_after_ms + Math.random() * limit, 2 ** 31 - 1);
      if (!over) timer = setTimeout(open, delay);
      tell("close", event);
      tell("status", over ? "closed" : "waiting", delay);
    };
  }

  open();
  return {
    send: (data) => socket.readyState === WebSocket.OPEN && (socket.send(data), true),
    close() { over = true; clearTimeout(timer); socket.close(); },
  };
}

// The range of a close code shows whether to reconnect. After 1009, a message too big, the next one would be too.
function comesBack(code) {
  return (code < 3500 && code !== 1009) || (code >= 4000 && code < 4500);
}

// A close reason may be a JSON object, whose `reconnect` and `retry_after_ms` take precedence over the code.
function details(reason) {
  let parsed;
  try { parsed = JSON.parse(reason) ?? {}; } catch { return {}; }
  const known = {};
  if (typeof parsed.reconnect === "boolean") known.reconnect = parsed.reconnect;
  if (parsed.retry_after_ms >= 0) known.retry_after_ms = Number(parsed.retry_after_ms);
  return known;
}
