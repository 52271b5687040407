/** Types of `client.js`, the browser's side of wsgateway. */

/** A position in a channel's history, `EPOCH:OFFSET`. null: the channel has no history. */
export type Position = string | null;

export interface ConnectOptions {
  /**
   * Returns a token, or a promise of one. Called before every attempt to connect, and again before the token expires.
   * The server's `on_handshake` finds the first one in `event.token`.
   */
  token?: () => string | null | undefined | Promise<string | null | undefined>;
  /** Messages that wait while there is no connection, 100 by default. One more is rejected with "full". */
  queue?: number;
}

export interface ChannelOptions {
  /** How many of the newest messages to receive first, if nothing can be recovered. Needs history. */
  last?: number;
  /** For the server's `on_subscribe`, which finds it in `event.message`. */
  data?: unknown;
}

export interface SendOptions {
  /** An event name. */
  name?: string;
}

export interface RequestOptions {
  /** The name of the request, such as that of a method. The server's `on_request` finds it in `event.name`. */
  name?: string;
  /** Milliseconds to wait for the answer, 10,000 by default. */
  timeout?: number;
}

/** The server has accepted the message: `on_message` has run, and the history, if there is one, has it. */
export interface Accepted {
  at: Position;
}

/**
 * A message or a request that was not accepted. With a `status`, the server has refused it. With 0, `reason` is one of
 * "unknown" (the connection broke before the answer, so it may have been handled), "full", "closed", and, for a request,
 * "timeout". A listener for "request" throws one to refuse a request of the server.
 */
export class SendError extends Error {
  constructor(reason: string, status?: number);
  readonly status: number;
  readonly reason: string;
}

/** One connection in a channel. Others see all three. */
export interface Member {
  id: string;
  user: string;
  info?: any;
}

/** `channel` is undefined for a message without one. Bytes arrive as a `Uint8Array`. */
export interface MessageDetails {
  channel?: string;
  name?: string;
  at: Position;
  key?: string;
  tags?: Record<string, string>;
  /** The member that sent it, in a channel with `presence`. */
  from?: Member;
}

/** Start over unless `recovered`: what follows is `reply`, the newest `last` messages, then live messages. */
export interface Subscribed {
  channel: string;
  at: Position;
  recovered: boolean;
  reply?: any;
}

/** The server has ended the subscription, and the room receives nothing any more. */
export interface Unsubscribed {
  channel: string;
  code: number;
  reason: string;
}

/** With a status of 429, or from 500 on, the room asks again later. Otherwise, it receives nothing any more. */
export interface Refusal {
  channel: string | null;
  status: number;
  reason: string;
}

export interface Closed {
  code: number;
  reason: string;
}

export interface ChannelEvents {
  message: (message: any, details: MessageDetails) => void;
  subscribed: (event: Subscribed) => void;
  unsubscribed: (event: Unsubscribed) => void;
  refused: (event: Refusal) => void;
  joined: (member: Member, details: { channel: string }) => void;
  left: (member: Member, details: { channel: string }) => void;
}

/** A channel. `live.channel` with the same name returns the same object, until it has been unsubscribed. */
export interface Room {
  readonly name: string;
  /** The members by user, kept current. Needs `presence`. */
  readonly members: ReadonlyMap<string, readonly Member[]>;
  on<E extends keyof ChannelEvents>(event: E, listener: ChannelEvents[E]): this;
  /** Publish a message. Rejects with `SendError`. Requires `publish` in the setting `clients` of the channel. */
  publish(message: unknown, options?: SendOptions): Promise<Accepted>;
  unsubscribe(): void;
}

/**
 * A connection. "message" gets the messages without a channel. All events of channels that the server's own code, or
 * the URL, has subscribed are emitted here too, unless `channel` was called for them.
 */
export interface Live {
  on(event: "status", listener: (...status: Status) => void): this;
  on(event: "status", listener: (state: Status[0]) => void): this;
  on<E extends keyof ChannelEvents>(event: E, listener: ChannelEvents[E]): this;
  /**
   * Answer requests of the server with a JSON value or a promise of one. The first listener answers. It refuses a
   * request by throwing `new SendError(reason, status)`.
   */
  on(event: "request", listener: (message: any, name: string) => unknown): this;
  /** Send a message, which `on_message` receives. Rejects with `SendError`. */
  send(message: unknown, options?: SendOptions): Promise<Accepted>;
  /**
   * Send a request, which `on_request` answers. Rejects with `SendError`. With the reason "unknown", the connection
   * broke before the answer, so the request may have been handled: a reconnect does not send it again.
   */
  request(message: unknown, options?: RequestOptions): Promise<any>;
  /** Subscribe now, and again after every reconnect. */
  channel(name: string, options?: ChannelOptions): Room;
  /** Close the connection for good. */
  close(): void;
}

/** The milliseconds until the next attempt, or why no attempt follows. */
export type Status =
  | [state: "connecting" | "open", detail: undefined]
  | [state: "waiting", milliseconds: number]
  | [state: "closed", detail: Closed];

/** Connect to `url`, relative to the page. */
export function connect(url: string | URL, options?: ConnectOptions): Live;
