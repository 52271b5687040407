// Runs scenarios with one version of the SDK against one server, all of them at the same time, and prints the outcome
// of each: a line of JSON with `name`, `carrier` and `error`, which is null if nothing went wrong.
//
//     node run.mjs '{"sdk": "newest", "url": "http://localhost:8000", "apiKey": "test-api-key", "only": "sse"}'
//
// `only`, a regular expression, chooses names and carriers such as `publishes_and_receives sse`.

import { CARRIERS, Kit, limited } from "./kit.mjs";
import * as scenarios from "./scenarios.mjs";

const plan = JSON.parse(process.argv[2]);
const problems = [];
process.on("unhandledRejection", (reason) => problems.push(reason?.stack ?? JSON.stringify(reason)));

async function outcome(name, carrier) {
  const kit = new Kit(plan, carrier);
  try {
    await kit.open();
    await limited(scenarios[name](kit), name, 60_000);
    return null;
  } catch (error) {
    return error?.stack ?? JSON.stringify(error);
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
await Promise.all([...chosen()].map(async ([name, carrier]) => report(name, carrier, await outcome(name, carrier))));
report("nothing_is_unhandled", "", problems.join("\n") || null);
process.exit();
