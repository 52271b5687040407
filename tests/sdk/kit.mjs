// What the scenarios use: clients of one version of the SDK over one carrier, publications by the server API, tokens,
// and events as promises. Everything waits at most `LIMIT`.

import { createHmac, randomUUID } from "node:crypto";
import { EventSource } from "eventsource";
import FormerEventSource from "eventsource-2";
import WebSocket from "ws";

export const LIMIT = 15_000;

/** The carriers of the protocol, and the path at which a server has each. */
export const CARRIERS = {
  "websocket": { transport: "websocket", path: "/connection/websocket" },
  "http_stream": { transport: "http_stream", path: "/connection/http_stream" },
  "sse": { transport: "sse", path: "/connection/sse" },
  "websocket-protobuf": { transport: "websocket", path: "/connection/websocket", isProtobuf: true },
  "http_stream-protobuf": { transport: "http_stream", path: "/connection/http_stream", isProtobuf: true },
};

const PACKAGES = { newest: "centrifuge", oldest: "centrifuge-oldest" };

// Not the other way round: with version 2, which ends before a promise is resolved, SDK 5.5 misses why a stream ends
const EVENT_SOURCES = { newest: FormerEventSource, oldest: EventSource };

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Return a JWT that is signed with HS256. */
export function token(claims, secret = "secret") {
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Reject after `LIMIT`, unless the promise settles before. */
export function limited(promise, what, limit = LIMIT) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what}: nothing for ${limit} ms`)), limit);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** The next event of that name for which `matches` is true. */
export function event(emitter, name, matches = () => true) {
  const arrived = new Promise((resolve) => {
    const listener = (context) => {
      if (!matches(context)) return;
      emitter.removeListener(name, listener);
      resolve(context);
    };
    emitter.on(name, listener);
  });
  return limited(arrived, `event ${name}`);
}

/** The next `count` events of that name. */
export function events(emitter, name, count) {
  const contexts = [];
  const arrived = new Promise((resolve) => {
    emitter.on(name, (context) => {
      contexts.push(context);
      if (contexts.length === count) resolve(contexts);
    });
  });
  return limited(arrived, `${count} events ${name}`);
}

export class Kit {
  #clients = [];

  constructor({ sdk, url, apiKey }, carrier) {
    this.version = sdk;
    this.url = url;
    this.carrier = carrier;
    this.apiKey = apiKey;
    this.isProtobuf = Boolean(CARRIERS[carrier].isProtobuf);
  }

  async open() {
    this.sdk = await import(PACKAGES[this.version] + (this.isProtobuf ? "/build/protobuf" : ""));
  }

  close() {
    for (const client of this.#clients) client.disconnect();
  }

  /** A client that is not connected yet. */
  client(options = {}) {
    const { transport, path } = CARRIERS[this.carrier];
    const base = transport === "websocket" ? this.url.replace(/^http/, "ws") : this.url;
    const client = new this.sdk.Centrifuge([{ transport, endpoint: base + path }], {
      websocket: WebSocket,
      eventsource: EVENT_SOURCES[this.version],
      fetch,
      readableStream: ReadableStream,
      emulationEndpoint: this.url + "/emulation",
      minReconnectDelay: 50,
      maxReconnectDelay: 1000,
      timeout: LIMIT,
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  async connected(options = {}) {
    const client = this.client(options);
    client.connect();
    await client.ready(LIMIT);
    return client;
  }

  /** A client, and its subscription to the channel. */
  async subscribed(channel, options = {}) {
    const client = await this.connected();
    const subscription = client.newSubscription(channel, options);
    subscription.subscribe();
    await subscription.ready(LIMIT);
    return [client, subscription];
  }

  channel(namespace = "test_") {
    return namespace + randomUUID();
  }

  /** The value as this carrier sends it, and back. */
  payload(value) {
    return this.isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
  }

  value(payload) {
    return this.isProtobuf ? JSON.parse(new TextDecoder().decode(payload)) : payload;
  }

  /** Call a method of the server API. Return its result. */
  async api(method, fields) {
    const answer = await fetch(`${this.url}/api/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-api-key": this.apiKey },
      body: JSON.stringify(fields),
    });
    const body = await answer.json();
    if (answer.status !== 200 || body.error) {
      throw new Error(`${method}: ${answer.status} ${JSON.stringify(body)}`);
    }
    return body.result;
  }

  async publish(channel, ...values) {
    for (const data of values) await this.api("publish", { channel, data });
  }
}
