"""`client.js` in Node, whose WebSocket it uses as that of a browser: a connection that outlives its tokens."""

import json
import os
import shutil
from pathlib import Path

import anyio
import pytest

from wsgateway import Gateway
from wsgateway.gateway.http.script import SCRIPT, script_text
from wsgateway.testing import serve

SECRET = "a secret of 32 bytes or more for the tests"

PROGRAM = """
import { createHmac } from "node:crypto";
import { connect } from "./client.mjs";

const [url, secret] = process.argv.slice(2);
const text = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const tokens = [], numbers = [], states = [];

async function token() {
  const claims = `${text({ alg: "HS256", typ: "JWT" })}.${text({ sub: "ali", exp: Date.now() / 1000 + 2 })}`;
  tokens.push(`${claims}.${createHmac("sha256", secret).update(claims).digest("base64url")}`);
  return tokens.at(-1);
}

const live = connect(url, { token });
live.on("status", (state) => states.push(state));
const news = live.channel("news").on("message", (number) => {
  numbers.push(number);
  if (tokens.length < 4) return;
  live.close();
  console.log(JSON.stringify({ numbers, states, count: new Set(tokens).size }));
});
"""


def node() -> str:
    """The path of Node. Without it, the test is skipped, and fails in CI."""
    path = shutil.which("node")
    if path is None and os.environ.get("CI") == "true":
        pytest.fail("node is not installed: install Debian's package nodejs")
    if path is None:
        pytest.skip("node is not installed")
    return path


async def test_a_program_in_node_renews_its_token(tmp_path: Path) -> None:
    (tmp_path / "client.mjs").write_text(script_text(SCRIPT))
    (tmp_path / "program.mjs").write_text(PROGRAM)
    gateway = Gateway(token_secret=SECRET, channels={"news": {"public": True, "history": 100}}, test_page=False)
    async with serve(gateway) as url:
        flag = "--experimental-websocket"  # which Node 20 needs, and later versions accept
        command = [node(), flag, "--no-warnings", "program.mjs", f"{url}/ws", SECRET]
        async with await anyio.open_process(command, cwd=tmp_path) as process:
            assert process.stdout
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:

                    async def publish() -> None:
                        for number in range(1, 1000):
                            await gateway.publish(number, channel="news")
                            await anyio.sleep(0.1)  # until the program has sent its fourth token

                    group.start_soon(publish)
                    outcome = json.loads(await process.stdout.receive())
                    group.cancel_scope.cancel()
            await process.wait()
    assert process.returncode == 0
    assert outcome["states"][:2] == ["connecting", "open"]
    assert outcome["states"][2:] in ([], ["closed"])
    assert outcome["count"] == 4
    numbers = outcome["numbers"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
