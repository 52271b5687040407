/** What the pages of the examples share: the state of a connection, and the list of messages. */

/** Show the state of a connection of `client.js` in the element `#status`, and return the connection. */
export function showStatus(live) {
  const output = document.getElementById("status");
  return live.on("status", (state, detail) => {
    output.dataset.state = state;
    output.textContent = { connecting: "connecting…", open: "connected", closed: "not connected" }[state]
      ?? `connection lost, next attempt in ${Math.ceil(detail / 1000)} s`;
  });
}

/**
 * Add a line to the list `#messages`. `time` is in seconds, as Python's `time.time()` returns it.
 * What other users have written is inserted as text, never as HTML: `textContent`, not `innerHTML`.
 */
export function addLine({ from, text, time = Date.now() / 1000, isOwn = false }) {
  const line = document.createElement("li");
  line.className = from === undefined ? "notice" : isOwn ? "own" : "";
  const date = new Date(time * 1000);
  const clock = element("time", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));
  clock.dateTime = date.toISOString();
  const words = element("p", typeof text === "string" ? text : JSON.stringify(text));
  if (from === undefined) line.append(words, " ", clock);
  else line.append(element("b", from), " ", clock, " ", words);
  const list = document.getElementById("messages");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(line);
  if (isAtEnd || isOwn) list.scrollTop = list.scrollHeight;
}

export function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

/** Post `body` as JSON and return the answer. If it is not a success, throw an error with its status and `detail`. */
export async function post(path, body = {}) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = response.status === 204 ? undefined : await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw Object.assign(new Error(answer.detail ?? `HTTP ${response.status}`), { status: response.status });
}
