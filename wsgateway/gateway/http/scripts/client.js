/**
 * The browser's side of wsgateway: a connection that reconnects, and channels that recover what they have missed.
 *
 *   const live = connect("/live/ws");
 *   const room = live.channel("room:1", { last: 20 }).on("message", (message, { at, from }) => add(message));
 *   await room.publish({ text: "hi" });
 * Add listeners in the task that calls `connect` or `channel`, because nothing arrives before that task has ended.
 */
const FIRST_LIMIT = 500, LAST_LIMIT = 20_000; // of the random wait before an attempt, in ms
const REQUEST_TIMEOUT = 10_000; // ms that a request waits for its answer
const STABLE = 5_000, PATIENCE = 15_000; // ms until a connection is stable; in which it has to open, or show life
const LONGEST = 2 ** 31 - 1; // ms that a timer can wait
const EXPIRED = "token expired"; // with the code 3500: another token may be valid

/**
 * A message or request that was not accepted: `status` and `reason` of the server; or 0 and "unknown", "full",
 * "timeout", or "closed". A listener for "request" throws one to refuse a request of the server.
 */
export class SendError extends Error {
  constructor(reason, status = 0) {
    super(status ? `refused with ${status}: ${reason}` : reason);
    Object.assign(this, { name: "SendError", reason, status });
  }
}

/**
 * Connect to `url`, relative to the page. `queue` is the length of the outgoing queue. The function `token` returns a
 * token or a promise of one. It is called before every attempt, and again before the token expires.
 */
export function connect(url, { token, queue: limit = 100 } = {}) {
  const send = (message, { name } = {}) => submit({ message: message ?? null, name });
  const live = { channel, send, request, close: () => end() };
  const emit = emitter(live);
  const rooms = new Map(); // by name
  const queue = []; // messages to send: { command, resolve, reject }
  const answers = new Map(); // messages without an answer, by id
  const closed = new AbortController(), { signal } = closed;
  let open = openSocket, carrier = null; // the socket or stream that connects or is open
  let timer = setTimeout(attempt); // begins the next attempt, or ends a connection that shows no sign of life
  let renewal, sent = { id: 0 }; // a timer sends a new token before the present one expires; the last such command
  let next; // the token of the next stream, which replaces one whose token expires
  let ids = 0, attempts = 0; // a new attempt makes those before it stale
  let failures = 0; // attempts in a row that did not open; -Infinity once a WebSocket has opened
  let waits = 0, openedAt = Infinity, earliest = 0; // waits without a stable connection; when the next attempt may be
  url = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  Object.assign(url, { hash: "", protocol: url.protocol.replace("ws", "http") });
  for (const event of ["online", "visibilitychange"]) globalThis.addEventListener?.(event, wake, { signal });
  return live;

  function channel(name, options = {}) {
    if (!rooms.get(name)?.options) subscribe(addRoom(name, options));
    return rooms.get(name).api;
  }
  /** Add a channel. One without `options` was subscribed by the server's own code, and `live` emits its events. */
  function addRoom(name, options) {
    const publish = (message, { name: event } = {}) => submit({ channel: name, message: message ?? null, name: event });
    const unsubscribe = () => { if (rooms.get(name) === room && rooms.delete(name)) put({ unsubscribe: name }); };
    const api = { name, members: new Map(), publish, unsubscribe };
    const room = { name, options, api, emit: options ? emitter(api) : emit, at: null, isActive: false, refusals: 0 };
    rooms.set(name, room);
    return room;
  }
  function subscribe(room) { room.id = put({ ...room.options, subscribe: room.name, since: room.at ?? undefined }); }
  async function submit(command, patience = Infinity) {
    const copy = JSON.parse(JSON.stringify(command)); // the page may change it
    if (signal.aborted) throw new SendError("closed");
    if (!carrier?.isReady() && queue.length >= limit) throw new SendError("full");
    let late;
    return new Promise((resolve, reject) => {
      const entry = { command: copy, resolve, reject };
      const expire = () => {
        if (queue.includes(entry)) queue.splice(queue.indexOf(entry), 1); // else the server has it
        reject(new SendError("timeout"));
      };
      if (patience <= LONGEST) late = setTimeout(expire, patience);
      queue.push(entry);
      flush();
    }).finally(() => clearTimeout(late));
  }
  /** Send a request, and return a promise of the server's answer. `timeout` is in ms. */
  function request(message, { name, timeout = REQUEST_TIMEOUT } = {}) {
    return submit({ request: message ?? null, name }, timeout);
  }
  /** Answer a request of the server with what the listener returns, on the connection that it came from. */
  async function answer({ id, name = "", ...object }) {
    const asked = carrier, listener = emit.first("request");
    let reply;
    try {
      if (!listener) throw new SendError("this client does not answer requests", 404);
      reply = { reply: await listener(content(object, "request"), name) ?? null, id };
      JSON.stringify(reply); // throws, such as for a BigInt
    } catch (error) {
      if (!(error instanceof SendError)) reportError(error);
      reply = { refused: null, id, status: error.status || 500, reason: error.reason ?? "the client failed" };
    }
    if (asked === carrier) asked.put(reply);
  }
  function flush() { while (carrier?.isReady() && queue.length) answers.set(put(queue[0].command), queue.shift()); }
  function put(command, id = ++ids) { carrier?.put({ ...command, id }); return carrier ? id : undefined; }
  function expect() { clearTimeout(timer); timer = setTimeout(lost, PATIENCE); }

  async function attempt() {
    drop();
    const current = attempts;
    emit("status", "connecting");
    try {
      const secret = token && (next ?? await token() ?? "");
      if (current !== attempts) return;
      next = undefined;
      expect();
      carrier = open(new URL(url), secret);
    } catch (error) {
      console.warn("wsgateway: the token function failed, or the browser refused to connect", error);
      if (current === attempts) lost();
    }
  }
  /** Send a new token. A stream cannot send it, so another stream with that token follows. */
  async function renew(retries) {
    const current = attempts;
    try {
      const secret = await token();
      if (current !== attempts || !secret) return;
      if (open === openStream) next = secret;
      sent = { id: put({ token: secret }), retries };
    } catch (error) {
      console.warn("wsgateway: the token function failed", error);
      if (current === attempts) renewIn(jitter(retries), retries + 1);
    }
  }
  function renewIn(delay, retries = 0) {
    clearTimeout(renewal);
    if (token) renewal = setTimeout(renew, Math.min(delay, LONGEST), retries);
  }
  function opened() {
    clearTimeout(timer);
    [failures, openedAt] = [open === openSocket ? -Infinity : 0, performance.now()];
    flush();
    emit("status", "open");
  }
  function lost({ code = 1006, reason = "", reconnect = true, retry_after_ms: least = 0 } = {}) {
    if (performance.now() - openedAt > STABLE) waits = 0;
    // A proxy may block WebSockets, so both kinds take turns after two failures, until a WebSocket has opened.
    if (carrier && openedAt === Infinity && ++failures > 1) open = open === openSocket ? openStream : openSocket;
    if (!reconnect && !(token && code === 3500 && reason === EXPIRED)) return end({ code, reason });
    drop();
    earliest = performance.now() + least;
    const delay = Math.min(least + jitter(waits++), LONGEST);
    timer = setTimeout(attempt, delay);
    emit("status", "waiting", delay);
  }
  /** The network or the user is back: do not wait any longer, and check that the connection still works. */
  function wake({ type }) {
    if (type === "visibilitychange" && document.hidden) return;
    if (!carrier && performance.now() >= earliest) attempt();
    if (open === openSocket && carrier?.isReady()) expect(put({})); // it is no command, so the answer is a refusal
  }
  function end(detail = { code: 1000, reason: "" }) {
    if (signal.aborted) return;
    closed.abort();
    drop();
    for (const { reject } of queue.splice(0)) reject(new SendError("closed"));
    emit("status", "closed", detail);
  }
  function drop() {
    clearTimeout(timer);
    clearTimeout(renewal);
    carrier?.close();
    [carrier, openedAt, attempts] = [null, Infinity, attempts + 1];
    for (const room of rooms.values()) Object.assign(room, { isActive: false, id: undefined });
    for (const { reject } of answers.values()) reject(new SendError("unknown"));
    answers.clear();
  }

  /** Handle an object of `wsgateway.v1`. What arrives for a room before the answer is of an earlier subscription. */
  function receive(object) {
    clearTimeout(timer); // a sign of life
    const { id, at = null, code, reason, status, name, key, tags, from, joined, left } = object;
    if (object.expires) renewIn(object.expires * (800 + 100 * Math.random())); // seconds; many pages spread out
    const isLater = status >= 500 || status === 429; // may be accepted later
    if (isLater && id === sent.id && "refused" in object) renewIn(jitter(sent.retries), sent.retries + 1);
    if ("request" in object) return answer(object); // its id is one of the server's
    const message = answers.get(id);
    if (message && "refused" in object) message.reject(new SendError(reason, status));
    if (answers.delete(id)) return message.resolve("reply" in object ? content(object, "reply") : { at });
    const channel = object.channel ?? object.subscribed ?? object.unsubscribed ?? object.refused;
    if ("subscribed" in object && id === undefined && !rooms.has(channel)) addRoom(channel);
    const room = rooms.get(channel), tell = room?.emit ?? emit, isAnswer = room && !room.isActive && room.id === id;
    if ("subscribed" in object && (room?.isActive || isAnswer)) {
      Object.assign(room, { at, isActive: true, refusals: 0 });
      room.api.members.clear();
      for (const member of object.members ?? []) move(room.api.members, member, true);
      tell("subscribed", { channel, at, recovered: object.recovered, reply: object.reply });
    } else if ("unsubscribed" in object && room?.isActive) {
      Object.assign(room, { at: null, isActive: false });
      if (code >= 2500) return subscribe(room); // and start over
      rooms.delete(channel);
      tell("unsubscribed", { channel, code, reason });
    } else if ("refused" in object && (isAnswer || (!room && id === undefined))) {
      const again = () => rooms.get(channel) === room && !room.isActive && subscribe(room);
      if (room && isLater) setTimeout(again, jitter(++room.refusals));
      else rooms.delete(channel);
      tell("refused", { channel, status, reason });
    } else if ((joined || left) && room?.isActive) {
      move(room.api.members, joined ?? left, joined);
      tell(joined ? "joined" : "left", joined ?? left, { channel });
    } else if (("message" in object || "base64" in object) && (room?.isActive || object.channel === undefined)) {
      if (room) room.at = at ?? room.at;
      tell("message", content(object, "message"), { channel, name, at, key, tags, from });
    }
  }
  function positions(from) { return from.filter(({ at }) => at).map(({ name, at }) => `${name}@${at}`); }
  function openSocket(url, secret) {
    const since = positions([...rooms.values()].filter(({ options }) => !options)); // the others subscribe below
    if (secret !== undefined) url.searchParams.set("auth", "first");
    else for (const position of since) url.searchParams.append("since", position);
    const socket = new WebSocket(url.href.replace("http", "ws"), "wsgateway.v1");
    const isReady = () => socket.readyState === 1;
    socket.onopen = () => {
      if (secret !== undefined) socket.send(JSON.stringify({ token: secret, since }));
      for (const room of rooms.values()) if (room.options) subscribe(room);
      opened();
    };
    socket.onmessage = ({ data }) => receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => lost(parse(code, reason));
    const close = () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    };
    return { isReady, close, put: (command) => isReady() && socket.send(JSON.stringify(command)) };
  }

  /** Open `GET /stream`, whose URL names the channels. Messages are posted to `/session/SECRET`, one after another. */
  function openStream(url, secret) {
    const stopped = new AbortController(), { signal } = stopped;
    const headers = secret ? { authorization: `Bearer ${secret}` } : {};
    const credentials = secret === undefined ? "include" : "same-origin"; // cookies, unless there is a token
    const root = url.pathname.replace(/^(.*)\/ws(\/.*)?$/, "$1");
    url.pathname = url.pathname.replace(/^(.*)\/ws(?=\/|$)/, "$1/stream");
    const query = positions([...rooms.values()]).map((position) => ["since", position]);
    for (const { name, options } of [...rooms.values()].filter((room) => room.options)) {
      query.push(["channel", name], ["last", options.last ?? ""], ["data", JSON.stringify(options.data) ?? ""]);
    }
    url.search = new URLSearchParams([...query, ...url.searchParams]);
    let session, isLeaving = false, posts = Promise.resolve();
    const ended = () => signal.aborted || lost();
    read().catch(() => {}).then(ended);
    return { isReady: () => session && !isLeaving, put, close: () => stopped.abort() };
    async function read() {
      const { ok, body } = await fetch(url, { headers, credentials, signal, cache: "no-store" });
      const reader = ok && body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", chunk; ok && !(chunk = await reader.read()).done;) {
        const lines = (rest + chunk.value).split("\n");
        rest = lines.pop();
        for (const line of lines) if (line && !signal.aborted) handle(JSON.parse(line)); // a heartbeat is empty
      }
    }
    function handle(object) {
      session ??= object.open?.session;
      if (object.open) opened(); else if (object.close) lost(object.close); else receive(object);
    }
    /** Post a message. If the channels change, another stream follows, after all changes that one task makes. */
    function put(command) {
      const isPost = "message" in command || "request" in command;
      if (isPost) return posts = posts.then(() => signal.aborted || post(command)).catch(ended);
      if (!isLeaving) setTimeout(() => posts.then(() => signal.aborted || attempt()));
      isLeaving = true;
    }
    async function post({ id, message, request: asked, ...query }) {
      const isRequest = asked !== undefined; // else it is null at least
      if (isRequest) query.reply = 1;
      const target = new URL(`${root}/session/${session}?${new URLSearchParams(query)}`, url);
      const body = new Blob([JSON.stringify(isRequest ? asked : message)], { type: "application/json" });
      const response = await fetch(target, { method: "POST", body, credentials });
      if (isRequest && response.ok) {
        const reply = await valueOf(response);
        return signal.aborted || receive({ id, reply });
      }
      const { at, detail: reason = "" } = await response.json().catch(() => ({})); // a 204 has no body
      const answer = response.ok ? { id, at } : { id, refused: null, status: response.status, reason };
      if (!signal.aborted) receive(answer);
    }
  }
}

function emitter(target) {
  const listeners = {};
  target.on = (event, listener) => ((listeners[event] ??= []).push(listener), target);
  const emit = (event, ...values) => {
    for (const listener of [...listeners[event] ?? []]) {
      try { listener(...values); } catch (error) { reportError(error); } // what follows still arrives
    }
  };
  return Object.assign(emit, { first: (event) => listeners[event]?.[0] });
}

/** Return what an object of the server carries under `key`, or the bytes that it carries instead. */
function content(object, key) {
  return "base64" in object ? Uint8Array.from(atob(object.base64), (byte) => byte.charCodeAt(0)) : object[key];
}

async function valueOf(response) {
  const [kind] = response.headers.get("content-type").split(";");
  if (kind === "application/json") return response.json();
  return kind === "text/plain" ? response.text() : new Uint8Array(await response.arrayBuffer());
}

function move(members, member, hasJoined) {
  const list = (members.get(member.user) ?? []).filter(({ id }) => id !== member.id);
  if (hasJoined) list.push(member);
  if (list.length) members.set(member.user, list); else members.delete(member.user);
}

/** Return whether and when to reconnect. A reason that is a JSON object takes precedence over the close code. */
function parse(code, text) {
  const rule = { code, reason: text, reconnect: (code < 3500 && code !== 1009) || (code >= 4000 && code < 4500) };
  try { return { ...rule, ...JSON.parse(text), code }; } catch { return rule; }
}
const jitter = (count) => Math.random() * Math.min(LAST_LIMIT, FIRST_LIMIT * 2 ** count);
