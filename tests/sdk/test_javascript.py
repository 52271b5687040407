"""The SDK for JavaScript in Node, in its oldest promised version and a recent one. Its tests are in `scenarios.mjs`."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.sdk.servers import HERE, mounted, node, served

RUNS = (
    ("alone", "newest"),
    ("alone", "oldest"),
    ("mounted", "newest"),
    ("ipc", "newest"),
    ("redis", "oldest"),
)
"""Each server, and the SDK that is run on it: all scenarios on all carriers at once."""

CODE = (HERE / "scenarios.mjs").read_text()
SCENARIOS = re.findall(r"^export async function (\w+)", CODE, re.MULTILINE)

Outcomes = dict[str, dict[str, str | None]]
"""What went wrong, by scenario and carrier."""


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
async def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outcomes]:
    kind, sdk = request.param
    async with AsyncExitStack() as stack:
        if kind == "mounted":
            _, url = await stack.enter_async_context(mounted("javascript"))
        else:
            url = stack.enter_context(served("javascript", kind, tmp_path_factory.mktemp(kind)))
        yield await run(sdk, url)


async def run(sdk: str, url: str) -> Outcomes:
    plan = {"sdk": sdk, "url": url, "apiKey": "test-api-key"}
    process = await asyncio.create_subprocess_exec(
        node(), str(HERE / "run.mjs"), json.dumps(plan), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    found: Outcomes = {}
    for line in output.decode().splitlines():
        outcome = json.loads(line)
        found.setdefault(outcome["name"], {})[outcome["carrier"]] = outcome["error"]
    return found


@pytest.mark.parametrize("scenario", [*SCENARIOS, "nothing_is_unhandled"])
async def test_the_sdk(outcomes: Outcomes, scenario: str) -> None:
    if scenario not in outcomes:
        pytest.skip("the oldest version of the SDK cannot do it")
    problems = [f"{carrier}: {error}" for carrier, error in outcomes[scenario].items() if error is not None]
    assert not problems, "\n".join(problems)
