"use strict";

// A WebSocket that comes back. `path` is relative to the page; the handlers are all optional:
//   const live = connect("ws?name=ann", { open() {…}, message(data) {…}, close(event) {…}, status(state, ms) {…} });
//   live.send("hi");   // false when it is not connected: nothing is queued
//   live.close();      // and it stays closed
// `status` is told "connecting", "open", "waiting" (`ms` until the next attempt) and "closed" (for good).
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
      timer = setTimeout(() => { attempts = 0; }, stable); // one that opens and falls at once must not come back fast
      tell("status", "open");
      tell("open");
    };
    socket.onmessage = (event) => tell("message", event.data);
    socket.onclose = (event) => {
      clearTimeout(timer);
      const { reconnect = comesBack(event.code), retry_after_ms = 0 } = details(event.reason);
      over ||= !reconnect;
      // Full jitter: anything up to the limit, so that a thousand clients do not return at the same moment.
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

// Close codes say by their range whether to come back; 1009 is a message too big, which would be too big again.
function comesBack(code) {
  return (code < 3500 && code !== 1009) || (code >= 4000 && code < 4500);
}

// A close reason may be a JSON object, whose `reconnect` and `retry_after_ms` weigh more than the code.
function details(reason) {
  let said;
  try { said = JSON.parse(reason) ?? {}; } catch { return {}; }
  const known = {};
  if (typeof said.reconnect === "boolean") known.reconnect = said.reconnect;
  if (said.retry_after_ms >= 0) known.retry_after_ms = Number(said.retry_after_ms);
  return known;
}
