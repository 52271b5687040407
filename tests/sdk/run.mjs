// Runs scenarios with one version of the SDK against one server, many of them at the same time, and prints the outcome
// of each: a line of JSON with `name`, `carrier` and `error`, which is null if nothing went wrong.
//
//     node run.mjs '{"sdk": "newest", "url": "http://localhost:8000", "apiKey": "test-api-key", "only": "sse"}'
//
// `only`, a regular expression, chooses names and carriers such as `publishes_and_receives sse`.

import { inspect } from "node:util";
import { CARRIERS, Kit, limited } from "./kit.mjs";
import * as scenarios from "./scenarios.mjs";

const AT_ONCE = 32;
const plan = JSON.parse(process.argv[2]);
const problems = [];
process.on("unhandledRejection", (reason) => problems.push(inspect(reason)));

async function outcome(name, carrier) {
  const kit = new Kit(plan, carrier);
  try {
    await kit.open();
    await limited(scenarios[name](kit), name, 60_000);
    return null;
  } catch (error) {
    return inspect(error);
  } finally {
    kit.close();
  }
}

function* chosen() {
  const only = new RegExp(plan.only ?? "");
  for (const [name, { carriers = Object.keys(CARRIERS), needs = plan.sdk }] of Object.entries(scenarios)) {
    if (needs !== plan.sdk) continue;
    for (const carrier of carriers) if (only.test(`${name} ${carrier}`)) yield [name, carrier];
  }
}

const report = (name, carrier, error) => console.log(JSON.stringify({ name, carrier, error }));

async function work(pairs) {
  for (const [name, carrier] of pairs) report(name, carrier, await outcome(name, carrier));
}

const pairs = chosen(); // shared, so that each is taken once
await Promise.all(Array.from({ length: AT_ONCE }, () => work(pairs)));
report("nothing_is_unhandled", "", problems.join("\n") || null);
process.exit();
