// What the SDK is used for, one function each. A function rejects if the SDK reports anything else than it should.
// `carriers` names those on which it runs; without it, all. `needs` names a version of the SDK.

import assert from "node:assert/strict";
import { event, events, limited, LIMIT, sleep, token } from "./kit.mjs";

const CALLED = 0;
const UNAUTHORIZED = 1;
const TRANSPORT_CLOSED = 1;
const GET_STATE_FAILED = 13;

/** Wait until the server answers what `check` accepts: it may answer before it has handled what another client did. */
async function eventually(ask, check) {
  const deadline = Date.now() + LIMIT;
  for (;;) {
    const answer = await ask();
    if (check(answer) || Date.now() > deadline) return answer;
    await sleep(20); // the server does not report it
  }
}

async function disconnect(client) {
  const disconnected = event(client, "disconnected");
  client.disconnect();
  assert.equal((await disconnected).code, CALLED);
  assert.equal(client.state, "disconnected");
}

/** The numbers in the data of publications. */
const numbers = (kit, publications) => publications.map(({ data }) => kit.value(data).number);

export async function connects_and_disconnects(kit) {
  const client = kit.client();
  const connected = event(client, "connected");
  const connecting = event(client, "connecting");
  client.connect();
  assert.equal((await connecting).code, CALLED);
  const context = await connected;
  assert.equal(context.transport, kit.carrier.split("-")[0]);
  assert.ok(context.client);
  await client.ready(LIMIT);
  await disconnect(client);
}

export async function connects_without_an_endpoint_for_commands(kit) {
  const client = await kit.connected({ emulationEndpoint: "/emulation" }); // its default, which Node cannot resolve
  assert.equal(client.state, "connected");
  await disconnect(client);
}
connects_without_an_endpoint_for_commands.carriers = ["http_stream", "sse"];

export async function subscribes_and_unsubscribes(kit) {
  const [client, subscription] = await kit.subscribed(kit.channel());
  assert.equal(subscription.state, "subscribed");
  const unsubscribed = event(subscription, "unsubscribed");
  subscription.unsubscribe();
  client.disconnect();
  assert.equal((await unsubscribed).code, CALLED);
  assert.equal(subscription.state, "unsubscribed");
  assert.equal(client.state, "disconnected");
}

export async function publishes_and_receives(kit) {
  const [, subscription] = await kit.subscribed(kit.channel());
  const received = event(subscription, "publication");
  const data = kit.payload({ my: "data", text: "é\u2028€", list: [1, null, 2.5] });
  await subscription.publish(data);
  const publication = await received;
  assert.deepEqual(publication.data, data);
  assert.equal(Number(publication.offset), 1);
  assert.ok(publication.info.client);
}

export async function publishes_in_order(kit) {
  const channel = kit.channel();
  const [client, subscription] = await kit.subscribed(channel);
  const [, other] = await kit.subscribed(channel);
  const received = [subscription, other].map((each) => events(each, "publication", 50));
  const all = [...Array(50).keys()];
  await Promise.all(all.map((number) => client.publish(channel, kit.payload({ number }))));
  const [first, second] = (await Promise.all(received)).map((publications) => numbers(kit, publications));
  assert.deepEqual(first, second);
  // over a stream these are 50 POSTs, which a browser sends on several connections
  const isOrdered = kit.carrier.startsWith("websocket");
  assert.deepEqual(isOrdered ? first : first.sort((a, b) => a - b), all);
}

export async function a_server_publishes_any_json(kit) {
  const channel = kit.channel();
  const [, subscription] = await kit.subscribed(channel);
  const values = ["text", "line\r\nline", 0, false, [], { data: "\n\ndata: x\n\n" }, "💥", 2 ** 53 - 1, ""];
  const received = events(subscription, "publication", values.length);
  await kit.publish(channel, ...values);
  assert.deepEqual((await received).map(({ data }) => kit.value(data)), values);
}

export async function an_rpc_waits_for_the_connection(kit) {
  const client = kit.client();
  const answered = client.rpc("method", kit.payload({ my: "data" }));
  client.connect();
  await assert.rejects(limited(answered, "rpc"), { code: 108 });
}

export async function shows_who_is_present(kit) {
  const channel = kit.channel();
  const [client, subscription] = await kit.subscribed(channel);
  const { clients } = await subscription.presence();
  assert.equal(Object.keys(clients).length, 1);
  const { numClients, numUsers } = await subscription.presenceStats();
  assert.deepEqual([numClients, numUsers], [1, 1]);
  const joined = event(subscription, "join", ({ info }) => !(info.client in clients));
  const left = event(subscription, "leave");
  const [other] = await kit.subscribed(channel);
  assert.equal(Object.keys((await client.presence(channel)).clients).length, 2);
  const { info } = await joined;
  other.disconnect();
  assert.equal((await left).info.client, info.client);
}

export async function connects_and_disconnects_ten_times_at_once(kit) {
  const client = kit.client();
  const disconnected = event(client, "disconnected");
  for (let count = 0; count < 10; count++) {
    client.connect();
    client.disconnect();
  }
  assert.equal(client.state, "disconnected");
  await disconnected;
  client.connect();
  await client.ready(LIMIT);
}

export async function subscribes_and_unsubscribes_ten_times_at_once(kit) {
  const channel = kit.channel();
  const client = await kit.connected();
  const subscription = client.newSubscription(channel);
  const unsubscribed = event(subscription, "unsubscribed");
  for (let count = 0; count < 10; count++) {
    subscription.subscribe();
    subscription.unsubscribe();
  }
  assert.equal(subscription.state, "unsubscribed");
  await unsubscribed;
  subscription.subscribe();
  const stats = await subscription.presenceStats();
  assert.deepEqual([stats.numClients, stats.numUsers], [1, 1]);
  assert.equal(Object.keys((await subscription.presence()).clients).length, 1);
  subscription.unsubscribe();
  const after = await eventually(() => client.presenceStats(channel), ({ numClients }) => numClients === 0);
  assert.deepEqual([after.numClients, after.numUsers], [0, 0]);
  assert.deepEqual((await client.presence(channel)).clients, {});
}

export async function a_network_goes_and_comes(kit) {
  const networkEventTarget = new EventTarget();
  const client = kit.client({ networkEventTarget });
  const lost = event(client, "connecting", ({ code }) => code === TRANSPORT_CLOSED);
  client.connect();
  await client.ready(LIMIT);
  networkEventTarget.dispatchEvent(new Event("offline"));
  await lost;
  assert.equal(client.state, "connecting");
  networkEventTarget.dispatchEvent(new Event("online"));
  await client.ready(LIMIT);
  await disconnect(client);
  networkEventTarget.dispatchEvent(new Event("online"));
  assert.equal(client.state, "disconnected");
}

export async function a_network_goes_before_the_socket_opens(kit) {
  const networkEventTarget = new EventTarget();
  const client = kit.client({ networkEventTarget });
  client.once("__centrifuge_debug:transport_initialized", () => networkEventTarget.dispatchEvent(new Event("offline")));
  client.connect();
  await client.ready(LIMIT);
  await disconnect(client);
}
a_network_goes_before_the_socket_opens.carriers = ["websocket", "websocket-protobuf"];

export async function unsubscribes_right_after_it_connects(kit) {
  const client = await kit.connected();
  const subscription = client.newSubscription(kit.channel());
  const unsubscribed = event(subscription, "unsubscribed");
  const subscribed = event(subscription, "subscribed");
  subscription.subscribe();
  client.disconnect();
  client.connect();
  subscription.unsubscribe();
  assert.equal(subscription.state, "unsubscribed");
  await unsubscribed;
  subscription.subscribe();
  await subscribed;
  await disconnect(client);
}

export async function unsubscribes_before_the_reply_to_its_connect(kit) {
  const client = kit.client();
  const subscription = client.newSubscription(kit.channel());
  const subscribed = event(subscription, "subscribed");
  const sent = event(client, "__centrifuge_debug:connect_frame_sent");
  client.once("__centrifuge_debug:connect_frame_sent", () => subscription.unsubscribe());
  subscription.subscribe();
  client.connect();
  await sent;
  await client.ready(LIMIT);
  await client.presenceStats(kit.channel()); // what the client sent before has been handled
  assert.equal(subscription.state, "unsubscribed");
  subscription.subscribe();
  await subscribed;
  await disconnect(client);
}
unsubscribes_before_the_reply_to_its_connect.carriers = ["websocket", "websocket-protobuf"];

export async function tokens_are_asked_for_once(kit) {
  for (let round = 0; round < 5; round++) {
    const asked = {};
    const got = (name, claims) => {
      asked[name] = (asked[name] ?? 0) + 1;
      return sleep(Math.random() * 50).then(() => token({ iat: Math.floor(Date.now() / 1000), ...claims }));
    };
    const client = kit.client({ getToken: () => got("connection", {}) });
    client.connect();
    const subscriptions = [1, 2, 3, 4, 5].map((number) => {
      const channel = `test${number}`;
      return client.newSubscription(channel, { getToken: () => got(channel, { channel }) });
    });
    const unsubscribed = subscriptions.map((each) => event(each, "unsubscribed"));
    for (const each of subscriptions) each.subscribe();
    await Promise.all(subscriptions.map((each) => each.ready(LIMIT)));
    assert.deepEqual(asked, { connection: 1, test1: 1, test2: 1, test3: 1, test4: 1, test5: 1 });
    for (const each of subscriptions) each.unsubscribe();
    client.disconnect();
    for (const context of await Promise.all(unsubscribed)) assert.equal(context.code, CALLED);
  }
}

export async function a_token_that_cannot_be_had_is_asked_for_again(kit) {
  const channel = kit.channel();
  const asked = { connection: 0, subscription: 0 };
  const failing = (name, claims) => async () => {
    asked[name] += 1;
    if (asked[name] === 1) throw new Error("not now");
    return token(claims);
  };
  const client = kit.client({ getToken: failing("connection", {}) });
  const failed = event(client, "error");
  client.connect();
  await failed;
  await client.ready(LIMIT);
  const options = { getToken: failing("subscription", { channel }), minResubscribeDelay: 50, maxResubscribeDelay: 50 };
  const subscription = client.newSubscription(channel, options);
  subscription.subscribe();
  await subscription.ready(LIMIT);
  assert.deepEqual(asked, { connection: 2, subscription: 2 });
}

export async function tokens_are_renewed_before_they_expire(kit) {
  const channel = kit.channel();
  const asked = { connection: 0, subscription: 0 };
  const short = (name, claims) => async () => {
    asked[name] += 1;
    return token({ exp: Math.floor(Date.now() / 1000) + 2, ...claims });
  };
  const client = kit.client({ getToken: short("connection", { sub: "ann" }) });
  client.connect();
  await client.ready(LIMIT);
  const subscription = client.newSubscription(channel, { getToken: short("subscription", { sub: "ann", channel }) });
  subscription.subscribe();
  await subscription.ready(LIMIT);
  const states = [];
  client.on("connecting", () => states.push("connecting"));
  subscription.on("subscribing", () => states.push("subscribing"));
  await eventually(async () => asked, ({ connection, subscription }) => connection >= 2 && subscription >= 2);
  await subscription.publish(kit.payload({}));
  assert.deepEqual(states, []);
  assert.ok(asked.connection >= 2);
  assert.ok(asked.subscription >= 2);
}

export async function a_bad_token_is_final(kit) {
  const client = kit.client({ token: "invalid_token" });
  const disconnected = event(client, "disconnected");
  client.connect();
  assert.equal((await disconnected).code, 3500);
  const channel = kit.channel();
  const other = await kit.connected();
  const subscription = other.newSubscription(channel, { token: "invalid_token" });
  const unsubscribed = event(subscription, "unsubscribed");
  subscription.subscribe();
  assert.equal((await unsubscribed).code, 103);
  assert.equal(other.state, "connected");
}

export async function an_unauthorized_page_disconnects(kit) {
  const client = kit.client({ getToken: () => Promise.reject(new kit.sdk.UnauthorizedError("no")) });
  const disconnected = event(client, "disconnected");
  client.connect();
  assert.equal((await disconnected).code, UNAUTHORIZED);
}

export async function an_unknown_channel_is_refused(kit) {
  const client = await kit.connected();
  const subscription = client.newSubscription(kit.channel("unknown:"));
  const unsubscribed = event(subscription, "unsubscribed");
  subscription.subscribe();
  assert.equal((await unsubscribed).code, 102);
  assert.equal(client.state, "connected");
}

/** Wait until nobody is subscribed: over a stream, a publication may overtake the POST that unsubscribes. */
async function isEmpty(kit, channel) {
  const stats = () => kit.api("presence_stats", { channel });
  assert.equal((await eventually(stats, (answer) => !answer.num_clients)).num_clients, 0);
}

async function recovers(kit, away, back) {
  const channel = kit.channel("recovery:");
  const [client, subscription] = await kit.subscribed(channel);
  const first = event(subscription, "publication");
  await kit.publish(channel, { number: 1 });
  assert.deepEqual(kit.value((await first).data), { number: 1 });
  away(client, subscription);
  await isEmpty(kit, channel);
  await kit.publish(channel, { number: 2 }, { number: 3 }, { number: 4 });
  const subscribed = event(subscription, "subscribed");
  const publications = events(subscription, "publication", 4);
  back(client, subscription);
  const context = await subscribed;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, true]);
  await kit.publish(channel, { number: 5 });
  assert.deepEqual(numbers(kit, await publications), [2, 3, 4, 5]);
}

export async function recovers_after_it_was_disconnected(kit) {
  await recovers(kit, (client) => client.disconnect(), (client) => client.connect());
}

export async function recovers_after_it_has_unsubscribed(kit) {
  await recovers(kit, (client, each) => each.unsubscribe(), (client, each) => each.subscribe());
}

export async function reports_that_it_cannot_recover(kit) {
  const channel = kit.channel("smallhistory:");
  const [, subscription] = await kit.subscribed(channel);
  const first = event(subscription, "publication");
  await kit.publish(channel, { number: 1 });
  await first;
  subscription.unsubscribe();
  await isEmpty(kit, channel);
  await kit.publish(channel, { number: 2 }, { number: 3 }, { number: 4 }, { number: 5 });
  const subscribed = event(subscription, "subscribed");
  const live = event(subscription, "publication");
  subscription.subscribe();
  const context = await subscribed;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
  await kit.publish(channel, { number: 6 });
  assert.deepEqual(kit.value((await live).data), { number: 6 });
}

async function unsubscribes_while_it_recovers(kit, name, expected) {
  const channel = kit.channel("recovery:");
  const [, subscription] = await kit.subscribed(channel);
  subscription.unsubscribe();
  await isEmpty(kit, channel);
  await kit.publish(channel, { number: 1 }, { number: 2 }, { number: 3 });
  const received = [];
  subscription.on("publication", ({ data }) => received.push(kit.value(data).number));
  subscription.once(name, () => subscription.unsubscribe());
  const unsubscribed = event(subscription, "unsubscribed");
  subscription.subscribe();
  await unsubscribed;
  assert.deepEqual(received, expected);
  const rest = events(subscription, "publication", 3 - expected.length);
  subscription.subscribe();
  await rest;
  assert.deepEqual(received, [1, 2, 3]);
}

export async function unsubscribes_when_it_is_subscribed(kit) {
  await unsubscribes_while_it_recovers(kit, "subscribed", []);
}
unsubscribes_when_it_is_subscribed.needs = "newest";

export async function unsubscribes_at_the_first_publication(kit) {
  await unsubscribes_while_it_recovers(kit, "publication", [1]);
}
unsubscribes_at_the_first_publication.needs = "newest";

export async function since_an_empty_epoch(kit) {
  const channel = kit.channel();
  await kit.publish(channel, { number: 1 });
  const client = await kit.connected();
  const subscription = client.newSubscription(channel, { since: { offset: 0, epoch: "" } });
  const subscribed = event(subscription, "subscribed");
  const first = event(subscription, "publication");
  subscription.subscribe();
  assert.equal((await subscribed).recovered, true);
  assert.deepEqual(kit.value((await first).data), { number: 1 });
}

export async function a_state_without_an_epoch(kit) {
  const channel = kit.channel("test_getstate_");
  await kit.publish(channel, { number: 1 }, { number: 2 }, { number: 3 });
  const client = await kit.connected();
  let asked = 0;
  const getState = async () => {
    asked += 1;
    return { offset: 0, epoch: "" };
  };
  const subscription = client.newSubscription(channel, { getState });
  const publications = events(subscription, "publication", 3);
  const subscribed = event(subscription, "subscribed");
  subscription.subscribe();
  await subscribed;
  assert.deepEqual(numbers(kit, await publications), [1, 2, 3]);
  const again = event(subscription, "subscribed");
  client.disconnect();
  client.connect();
  assert.equal((await again).recovered, true);
  assert.equal(asked, 1);
}
a_state_without_an_epoch.needs = "newest";

export async function a_state_that_cannot_be_had(kit) {
  const client = await kit.connected();
  let asked = 0;
  const getState = async () => {
    asked += 1;
    if (asked < 4) throw new Error("simulated failure");
    return { offset: 0, epoch: "" };
  };
  const options = { getState, minResubscribeDelay: 20, maxResubscribeDelay: 20 };
  const subscription = client.newSubscription(kit.channel("test_getstate_"), options);
  const failed = event(subscription, "error");
  const subscribed = event(subscription, "subscribed");
  subscription.subscribe();
  const { type, error } = await failed;
  assert.deepEqual([type, error.code], ["subscribe", GET_STATE_FAILED]);
  await subscribed;
  assert.equal(asked, 4);
}
a_state_that_cannot_be_had.needs = "newest";

/** Return the position of a channel, as its first subscriber sees it. */
async function position(client, channel) {
  const subscription = client.newSubscription(channel, { recoverable: true });
  const subscribed = event(subscription, "subscribed");
  subscription.subscribe();
  const { streamPosition } = await subscribed;
  subscription.unsubscribe();
  client.removeSubscription(subscription);
  return streamPosition;
}

export async function a_state_with_its_position(kit) {
  const channel = kit.channel("test_getstate_");
  const client = await kit.connected();
  const { epoch, offset } = await position(client, channel);
  assert.ok(epoch);
  assert.equal(Number(offset), 0);
  await kit.publish(channel, { number: 1 }, { number: 2 });
  const subscription = client.newSubscription(channel, { getState: async () => ({ offset: 0, epoch }) });
  const publications = events(subscription, "publication", 2);
  subscription.subscribe();
  assert.deepEqual(numbers(kit, await publications), [1, 2]);
}
a_state_with_its_position.needs = "newest";

export async function a_state_is_asked_for_again_when_its_position_is_lost(kit) {
  const channel = kit.channel("smallhistory:");
  const client = await kit.connected();
  const { epoch } = await position(client, channel);
  let asked = 0;
  const getState = async () => {
    asked += 1;
    const history = await kit.api("history", { channel, limit: 0 });
    return { offset: history.offset ?? 0, epoch: history.epoch || epoch };
  };
  const options = { getState, minResubscribeDelay: 20, maxResubscribeDelay: 20 };
  const subscription = client.newSubscription(channel, options);
  const subscribed = event(subscription, "subscribed");
  subscription.subscribe();
  await subscribed;
  assert.equal(asked, 1);
  client.disconnect();
  await kit.publish(channel, 1, 2, 3, 4, 5);
  const again = event(subscription, "subscribed");
  client.connect();
  await again;
  assert.equal(asked, 2);
}
a_state_is_asked_for_again_when_its_position_is_lost.needs = "newest";

export async function reads_the_history(kit) {
  const channel = kit.channel();
  const [client, subscription] = await kit.subscribed(channel);
  for (let number = 1; number <= 5; number++) await subscription.publish(kit.payload({ number }));
  const all = await subscription.history({ limit: -1 });
  assert.deepEqual(numbers(kit, all.publications), [1, 2, 3, 4, 5]);
  assert.equal(Number(all.offset), 5);
  const page = await client.history(channel, { limit: 2 });
  assert.deepEqual(numbers(kit, page.publications), [1, 2]);
  const since = { offset: Number(page.publications[1].offset), epoch: page.epoch };
  assert.deepEqual(numbers(kit, (await client.history(channel, { limit: 2, since })).publications), [3, 4]);
  const reversed = await client.history(channel, { limit: -1, reverse: true });
  assert.deepEqual(numbers(kit, reversed.publications), [5, 4, 3, 2, 1]);
  const here = await client.history(channel, { limit: 0 });
  assert.deepEqual([here.publications, here.epoch], [[], all.epoch]);
  await assert.rejects(client.history(channel, { limit: 1, since: { offset: 1, epoch: "other" } }), { code: 112 });
}

export async function many_subscriptions_in_the_first_frame(kit) {
  const client = kit.client();
  const subscriptions = Array.from({ length: 100 }, () => client.newSubscription(kit.channel()));
  for (const each of subscriptions) each.subscribe();
  client.connect();
  await Promise.all(subscriptions.map((each) => each.ready(LIMIT)));
  const received = events(subscriptions[99], "publication", 1);
  await subscriptions[99].publish(kit.payload("last"));
  await received;
}

export async function the_backend_ends_a_connection(kit) {
  const channel = kit.channel();
  const client = await kit.connected({ token: token({ sub: channel }) });
  const disconnected = event(client, "disconnected");
  await kit.api("disconnect", { user: channel });
  assert.equal((await disconnected).code, 3503);
}

export async function the_backend_makes_a_client_reconnect(kit) {
  const user = kit.channel();
  const client = await kit.connected({ token: token({ sub: user }) });
  const subscription = client.newSubscription(kit.channel());
  subscription.subscribe();
  await subscription.ready(LIMIT);
  const subscribed = event(subscription, "subscribed");
  const connecting = event(client, "connecting");
  await kit.api("disconnect", { user, disconnect: { code: 4000, reason: "come back" } });
  const { code, reason } = await connecting;
  assert.deepEqual([code, reason], [4000, "come back"]);
  assert.equal((await subscribed).recovered, true);
}

export async function the_backend_ends_a_subscription(kit) {
  const [user, channel] = [kit.channel(), kit.channel()];
  const client = await kit.connected({ token: token({ sub: user }) });
  const subscription = client.newSubscription(channel);
  subscription.subscribe();
  await subscription.ready(LIMIT);
  const unsubscribed = event(subscription, "unsubscribed");
  await kit.api("unsubscribe", { user, channel });
  assert.equal((await unsubscribed).code, 2000);
  assert.equal(client.state, "connected");
}

export async function the_backend_subscribes_a_client(kit) {
  const [user, channel] = [kit.channel(), kit.channel()];
  const client = await kit.connected({ token: token({ sub: user }) });
  const mine = (context) => context.channel === channel;
  const subscribed = event(client, "subscribed", mine);
  const publication = event(client, "publication", mine);
  const joined = event(client, "join", mine);
  await kit.api("subscribe", { user, channel });
  await subscribed;
  await joined;
  await kit.publish(channel, { number: 1 });
  assert.deepEqual(kit.value((await publication).data), { number: 1 });
  const unsubscribed = event(client, "unsubscribed", mine);
  await kit.api("unsubscribe", { user, channel });
  await unsubscribed;
}

const RECONNECTS = [3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 4000, 4499];
const IS_FINAL = [3500, 3501, 3502, 3503, 3504, 3505, 3507, 3508, 3509, 4500, 4999];
const REASONS = ["a text", "", '{"retry_after_ms":1500}', '{"reconnect":false}', '{"reconnect":true}', "5", "true", '"x"'];

/** Close a client with that code and reason. Return the event that the SDK emits, and its name. */
async function closed(kit, code, reason) {
  const user = kit.channel();
  const client = await kit.connected({ getToken: async () => token({ sub: user }) });
  const emitted = ["connecting", "disconnected"].map((name) => event(client, name).then((context) => [name, context]));
  await kit.api("disconnect", { user, disconnect: { code, reason } });
  const outcome = await Promise.any(emitted);
  client.disconnect();
  return outcome;
}

export async function a_code_decides_whether_to_reconnect(kit) {
  const check = async (code, expected, index) => {
    const reason = REASONS[index % REASONS.length];
    const [name, context] = await closed(kit, code, reason);
    assert.deepEqual([code, reason, name, context.code], [code, reason, expected, code]);
    assert.ok(context.reason);
  };
  await Promise.all(RECONNECTS.map((code, index) => check(code, "connecting", index)));
  await Promise.all(IS_FINAL.map((code, index) => check(code, "disconnected", index)));
}

export async function a_frame_that_is_too_large_is_final(kit) {
  const client = await kit.connected();
  const disconnected = event(client, "disconnected");
  client.publish(kit.channel(), kit.payload("x".repeat(70_000))).catch(() => 0);
  assert.equal((await disconnected).code, 3); // the SDK's own code, for a close with 1009
}
a_frame_that_is_too_large_is_final.carriers = ["websocket", "websocket-protobuf"];
