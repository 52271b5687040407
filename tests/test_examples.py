"""Each example, started with its own command, its page driven in a real browser."""

import hashlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile

import anyio
import anyio.to_thread
import httpx
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.cable import cable
from tests.cutting import cutting_proxy
from tests.ports import free_port
from tests.processes import environment
from wsgateway.client import send
from wsgateway.testing import Client

EXAMPLES = Path(__file__).parent.parent / "examples"
EVIL = "<img src=x onerror=alert(1)>"
LINE = r"^({0}{1}|{0} \d\d:\d\d ){2}( \d\d:\d\d)?$"
"""What a line of a page looks like, with a name, a colon, and a text. The time is behind the name, or at the end."""


@asynccontextmanager
async def example(name: str, port: int, **variables: str) -> AsyncIterator[str]:
    """Run an example as its README does, and yield its URL once it answers. No error may be in its log."""
    command = re.search(r"^(?:python|uvicorn) .*app\S*", (EXAMPLES / name / "README.md").read_text(), re.MULTILINE)
    assert command
    program, *arguments = command[0].replace("examples", str(EXAMPLES)).split()
    module = ["-m", "uvicorn"] if program == "uvicorn" else []
    argv = [sys.executable, *module, *arguments, "--port", str(port)]
    url = f"http://127.0.0.1:{port}/"
    with TemporaryFile() as output:
        try:
            env = environment(variables)
            async with await anyio.open_process(argv, env=env, stdout=output, stderr=output) as process:
                try:
                    async with httpx.AsyncClient() as http:
                        with anyio.fail_after(20):
                            while True:
                                try:
                                    assert (await http.get(url)).status_code == 200
                                    break
                                except httpx.ConnectError:
                                    assert process.returncode is None, "it has ended before it answered"
                                    await anyio.sleep(0.05)  # between two tries of what another process opens
                    yield url
                finally:
                    if process.returncode is None:
                        process.terminate()
                with anyio.fail_after(20):
                    await process.wait()
        finally:
            output.seek(0)
            text = output.read().decode()
            print(text)  # pytest shows it when the test fails
    assert "Finished server process" in text, text
    assert "Traceback" not in text, text
    assert "ERROR" not in text, text


@asynccontextmanager
async def tabs(browser: Browser, url: str, count: int = 2) -> AsyncIterator[list[Page]]:
    """Pages at `url`, which share cookies, and in which no script may fail and none of a message may run."""
    problems: list[str] = []
    async with await browser.new_context() as context:
        pages = [await context.new_page() for _ in range(count)]
        for page in pages:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            await page.goto(url)
        yield pages
    assert problems == []


async def join(page: Page, name: str, group: str = "") -> None:
    await page.get_by_label("Your name").fill(name)
    if group:
        await page.get_by_label("Your group").select_option(group)
    await page.get_by_role("button", name="Join").click()
    await expect(page.get_by_role("status")).to_contain_text("connected")


async def write(page: Page, text: str) -> None:
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_label("Message", exact=True).press("Enter")


async def shows(page: Page, *messages: str) -> None:
    """Assert that the page lists `messages`: notices, and `NAME: TEXT` for what a user has written. Each has a time."""
    await expect(page.get_by_label("Messages").locator("li")).to_have_text([line(message) for message in messages])


def line(message: str) -> re.Pattern[str]:
    return re.compile(LINE.format(*map(re.escape, message.rpartition(": "))))


async def check_page(page: Page) -> None:
    """Assert, on a desktop and on a phone, that nothing is too wide, that nothing overlaps, and that axe agrees."""
    for width, height in ((1280, 800), (390, 844)):
        await page.set_viewport_size({"width": width, "height": height})
        assert await page.evaluate(MISPLACED) == []
    found = (await Axe().run(page)).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


MISPLACED = """() => {
  const boxes = [...document.querySelectorAll("h1, p, label, input, select, button, output, table, #messages")]
    .filter((each) => each.checkVisibility() && each.getBoundingClientRect().width && !each.closest("li"))
    .map((each) => [each, each.getBoundingClientRect()]);
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const isOutside = ({ left, right }) => left < 0 || right > innerWidth;
  const outside = boxes.filter(([, box]) => isOutside(box)).map(([each]) => `outside: ${each.outerHTML}`);
  const overlapping = boxes.flatMap(([one, a], index) => boxes.slice(index + 1)
    .filter(([other, b]) => !one.contains(other) && overlap(a, b))
    .map(([other]) => `overlap: ${one.outerHTML} ${other.outerHTML}`));
  const wide = document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : [];
  return [...wide, ...outside, ...overlapping];
}"""


async def test_simple_chat(browser: Browser) -> None:
    async with example("simple_chat", free_port()) as url, tabs(browser, url) as (ann, eve):
        await join(ann, "  Ann  ")
        await eve.get_by_label("Your name").fill("not\u200dprintable")
        await eve.get_by_role("button", name="Join").click()
        await expect(eve.get_by_role("alert")).to_have_text("a name has at most 30 characters, all of them printable")
        await check_page(eve)
        await join(eve, EVIL)
        await expect(ann.get_by_role("status")).to_have_text("connected, 2 online")
        await write(ann, "hi")
        await write(eve, EVIL)
        said = ["Ann: hi", f"{EVIL}: {EVIL}"]
        await expect(ann.locator("img")).to_have_count(0)
        await expect(ann.locator("li.own")).to_have_count(1)
        await expect(ann.locator("li.own p")).to_have_text("hi")
        await ann.emulate_media(color_scheme="dark")
        await check_page(ann)
        await shows(eve, f"{EVIL} joined", *said)
        await eve.close()
        await shows(ann, "Ann joined", f"{EVIL} joined", *said, f"{EVIL} left")


async def test_both_tabs_reconnect_after_a_restart(browser: Browser) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        async with example("simple_chat", port) as url:
            ann, bob = await stack.enter_async_context(tabs(browser, url))
            await join(ann, "Ann")
            await join(bob, "Bob")
        for page in (ann, bob):
            await expect(page.get_by_role("status")).to_contain_text("connection lost")
        async with example("simple_chat", port):
            for page, other in ((ann, bob), (bob, ann)):
                await expect(page.get_by_role("status")).to_have_text("connected, 2 online", timeout=30_000)
                await write(page, "again")
                await expect(other.get_by_label("Messages")).to_contain_text(re.compile(r"\d\d again"))


NUMBERS = " ".join(map(str, range(1, 451)))
"""A prompt that the fake model repeats. A number that is missing or doubled shows a gap or a repetition."""


async def numbers(page: Page) -> list[int]:
    text = await page.get_by_label("Messages").locator("li:nth-child(2) p").inner_text()
    return [int(number) for number in re.findall(r"\d+\b", text)]


async def wait_for_numbers(page: Page, count: int) -> None:
    with anyio.fail_after(30):
        while len(await numbers(page)) < count:
            await anyio.sleep(0.02)  # between two looks at a page that changes by itself


async def test_tokens_survive_a_reload(browser: Browser) -> None:
    async with example("tokens", free_port(), DELAY="0.05") as url, tabs(browser, url) as (asking, viewer):
        prompt, cancel = asking.get_by_label("Prompt"), asking.get_by_role("button", name="Cancel")
        await prompt.fill(NUMBERS)
        await prompt.press("Enter")
        await wait_for_numbers(viewer, 3)
        await asking.reload()
        await expect(cancel).to_be_enabled()  # so the answer is still being written
        late = await viewer.context.new_page()
        await late.goto(url)
        await wait_for_numbers(late, len(await numbers(viewer)) + 3)
        await cancel.click()
        for page in (asking, viewer, late):
            await expect(page.get_by_label("Messages").locator("small")).to_have_text("canceled")
            shown = await numbers(page)
            assert shown == list(range(1, len(shown) + 1))
            assert shown == await numbers(viewer)

        await prompt.fill(EVIL)
        await prompt.press("Enter")
        for page in (asking, viewer, late):
            last = page.get_by_label("Messages").locator("li").last
            await expect(last).to_have_text(re.compile(f"prompt: {re.escape(EVIL)}$"), timeout=20_000)
            await expect(page.locator(".writing")).to_have_count(0)
        await expect(asking.get_by_label("Messages").locator("li")).to_have_count(4)
        await check_page(asking)


def push_prices(url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(EXAMPLES / "data_push" / "push_prices.py"), "--url", f"{url}live/send", *options]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=30, check=False)


async def test_data_push(browser: Browser) -> None:
    async with example("data_push", free_port()) as url, tabs(browser, url) as (first, second):
        for page in (first, second):
            await expect(page.get_by_role("status")).to_have_text("connected")
            await page.add_style_tag(content="tr.flash { animation-duration: 100s }")  # so that it is there to be seen
        pushed = await anyio.to_thread.run_sync(push_prices, url, "--count", "1")
        assert pushed.returncode == 0, pushed.stderr
        assert "to 2 pages" in pushed.stdout
        for page in (first, second):
            await expect(page.locator("tr.flash")).to_have_count(5)
            await page.evaluate("document.querySelectorAll('tr').forEach((row) => row.classList.remove('flash'))")

        await anyio.to_thread.run_sync(send, f"{url}live/send", {"ACME": 1, EVIL: 2})
        for page in (first, second):
            changed = page.locator("tr.flash")
            await expect(changed).to_have_count(2)
            await expect(changed.first.locator("th, td")).to_have_text(["ACME", "1.00", re.compile(r"▼ .\d+\.\d\d")])
            await expect(changed.last.locator("th, td")).to_have_text([EVIL, "2.00", ""])
        assert await first.evaluate("getComputedStyle(document.querySelector('.flash')).animationName") == "flash"

        await check_page(first)
        await first.reload()
        await expect(first.locator("tbody tr")).to_have_count(6)
        await expect(first.locator("tr[data-symbol=ACME]")).to_contain_text("1.00")


async def test_push_prices_says_that_nobody_answers() -> None:
    pushed = await anyio.to_thread.run_sync(push_prices, f"http://127.0.0.1:{free_port()}/")
    assert pushed.returncode == 1
    assert "refused" in pushed.stderr
    assert "Traceback" not in pushed.stderr


async def test_private_groups(browser: Browser) -> None:
    async with example("private_groups", free_port()) as url, tabs(browser, url, 3) as (ann, bob, eve):
        await join(ann, "Ann", "red")
        await join(bob, "Bob", "red")
        await join(eve, EVIL, "blue")
        to = ann.get_by_label("To")
        for chosen, text in ((EVIL, "only you"), ("group red", "only us"), ("Bob", EVIL), ("everybody", "all")):
            await to.select_option(label=chosen)
            await write(ann, text)
        alone, group, private, everybody = (
            f"Ann → {EVIL}: only you",
            "Ann → group red: only us",
            f"Ann → Bob: {EVIL}",
            "Ann → everybody: all",
        )
        await shows(ann, alone, group, private, everybody)
        await expect(ann.locator("li.own")).to_have_count(4)
        await expect(bob.locator("li.own")).to_have_count(0)
        await check_page(ann)
        await shows(bob, group, private, everybody)
        await shows(eve, alone, everybody)

        await bob.close()
        await expect(to.locator("option")).to_have_text(
            ["everybody", "group red", "group green", "group blue", EVIL, "Ann"]
        )


async def test_fastapi_app(browser: Browser) -> None:
    async with example("fastapi_app", free_port()) as url, tabs(browser, url) as (ann, second):
        await expect(ann.get_by_label("Messages")).to_have_count(0)  # the login comes first
        await ann.get_by_label("Name").fill("ann")
        await ann.get_by_label("Password").fill("wrong")
        await ann.get_by_role("button", name="Log in").click()
        await expect(ann.get_by_role("alert")).to_have_text("wrong name or password")
        await check_page(ann)
        await ann.get_by_label("Password").fill("wonderland")
        await ann.get_by_role("button", name="Log in").dblclick()
        await expect(ann.get_by_role("status")).to_have_text("connected as ann")
        await second.reload()  # the tabs share the cookie
        await expect(second.get_by_role("status")).to_have_text("connected as ann")
        await write(second, EVIL)
        await ann.get_by_role("button", name="Order").click()
        for page in (ann, second):
            await shows(page, f"ann: {EVIL}", "shop: ann has ordered tea")
            await expect(page.locator("li.own")).to_have_count(1)
        await check_page(ann)

        await second.get_by_role("button", name="Log out").click()
        for page in (ann, second):
            await expect(page.get_by_role("button", name="Log in")).to_be_visible()
        async with httpx.AsyncClient(base_url=url, cookies={"session": "forged"}) as http:
            assert (await http.post("orders", json={"item": "tea"})).status_code == 401
        async with Client(url.removesuffix("/"), "/live/ws", additional_headers={"cookie": "session=forged"}) as forged:
            assert await forged.closed() == (3500, "log in first")


DICE = re.compile(r"has rolled [1-6] and [1-6] \d\d:\d\d$")


async def sit_down(page: Page, url: str, name: str) -> None:
    await page.goto(url)
    await page.get_by_label("Your name").fill(name)
    await page.get_by_role("button", name="Join").click()
    await expect(page.locator("#status")).to_have_text("connected", timeout=20_000)


async def write_at_the_table(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_label("Message", exact=True).press("Enter")


async def test_the_page_with_the_centrifuge_sdk(browser: Browser) -> None:
    port = free_port()
    async with (
        example("centrifuge_js", port, LIFETIME="1") as url,
        cable(port) as network,
        tabs(browser, url, 2) as (ann, eve),
    ):
        tokens: list[str] = []
        ann.on("request", lambda request: tokens.append(request.url) if request.url.endswith("/token") else None)
        await sit_down(ann, network.url, "Ann")
        await write_at_the_table(ann, "is somebody there?")
        await sit_down(eve, url, EVIL)
        await expect(ann.locator("#members")).to_have_text(f"{EVIL}, Ann")
        await shows(eve, "Ann: is somebody there?")
        await write_at_the_table(eve, EVIL)
        await ann.get_by_role("button", name="Roll two dice").click()
        await expect(ann.locator("#rolled")).to_have_text(re.compile(r"^you have rolled \d+$"))
        for page in (ann, eve):
            await expect(page.get_by_label("Messages").locator("li").last).to_have_text(DICE)
            await expect(page.get_by_label("Messages").locator("li").nth(1)).to_have_text(line(f"{EVIL}: {EVIL}"))
        await expect(ann.locator("li.own")).to_have_count(1)
        await check_page(ann)

        await network.cut()
        await expect(ann.locator("#status")).to_have_text("connecting…")
        await write_at_the_table(eve, "you were away")
        await network.repair()
        newest = ann.get_by_label("Messages").locator("li").last
        await expect(newest).to_have_text(line(f"{EVIL}: you were away"), timeout=30_000)
        await expect(ann.get_by_label("Messages").locator("li")).to_have_count(4)
        with anyio.fail_after(20):
            while len(tokens) < 3:
                await anyio.sleep(0.05)  # the SDK renews its tokens
        await expect(ann.locator("#status")).to_have_text("connected")
        await eve.close()
        await expect(ann.locator("#members")).to_have_text("Ann")


async def test_the_page_with_the_centrifuge_sdk_works_where_websockets_are_blocked(browser: Browser) -> None:
    async with (
        example("centrifuge_js", free_port()) as url,
        cutting_proxy(url.removesuffix("/"), refuses_websockets=True) as proxy,
        tabs(browser, proxy.url + "/", 1) as (page,),
    ):
        await page.get_by_label("Your name").fill("not\u200dprintable")
        await page.get_by_role("button", name="Join").click()
        await expect(page.get_by_role("alert")).to_have_text("unauthorized")
        await sit_down(page, proxy.url + "/", "Ann")
        assert proxy.refused > 0
        await write_at_the_table(page, "x" * 500)
        await shows(page, f"Ann: {'x' * 500}")
        await expect(page.locator("#members")).to_have_text("Ann")
        await check_page(page)


def test_the_centrifuge_sdk_is_the_one_of_its_package() -> None:
    folder = EXAMPLES / "centrifuge_js" / "vendor"
    script = (folder / "centrifuge-5.8.0.js").read_bytes()  # dist/centrifuge.js of `npm pack centrifuge@5.8.0`
    assert hashlib.sha256(script).hexdigest() == "2e9a24e8495900b030008edd8a8d3746a218a213044b5ed15635fbadac24d4b8"
    assert "MIT License" in (folder / "centrifuge-5.8.0.LICENSE").read_text()


PROGRAM = {"PYTHONWARNINGS": "error,ignore::ResourceWarning"}
"""The SDK closes its socket in the background, so a program may end earlier."""


async def run_program(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(EXAMPLES / "centrifuge_python" / name), *arguments]
    with anyio.fail_after(40):
        done = await anyio.run_process(argv, env=environment(PROGRAM), check=False)
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())


async def test_programs_with_the_centrifuge_sdk() -> None:
    async with example("centrifuge_python", free_port()) as url, httpx.AsyncClient(base_url=url) as http:
        sent = await run_program("sensor.py", "--url", url, "--count", "2")
        assert (sent.returncode, sent.stderr) == (0, "")
        celsius = [float(line.removeprefix("reported ")) for line in sent.stdout.splitlines()]
        assert len(celsius) == 2
        watched = await run_program("watch.py", "--url", url, "--count", "1")
        assert (watched.returncode, watched.stdout, watched.stderr) == (0, f"kitchen: {celsius[1]} °C\n", "")
        assert (await http.get("/")).json() == [{"sensor": "kitchen", "celsius": celsius[1]}]
        refused = await run_program("sensor.py", "cellar", "water", "--url", url)
        assert refused.returncode == 1
        assert "unauthorized" in refused.stderr
        assert "Traceback" not in refused.stderr


async def test_a_watcher_goes_on_after_a_restart() -> None:
    port = free_port()
    argv = [sys.executable, str(EXAMPLES / "centrifuge_python" / "watch.py"), "--url", f"http://127.0.0.1:{port}"]
    async with AsyncExitStack() as stack:
        async with example("centrifuge_python", port) as url:
            process = await stack.enter_async_context(
                await anyio.open_process(argv, env=environment(PROGRAM), stderr=subprocess.STDOUT)
            )
            stack.callback(process.terminate)
            sent = await run_program("sensor.py", "--url", url, "--count", "1")
            assert sent.returncode == 0
            assert process.stdout
            received = await process.stdout.receive()
            assert received.startswith(b"kitchen: ")
        async with example("centrifuge_python", port) as url:
            with anyio.fail_after(30):
                received = b""
                while b"connected again" not in received:
                    received += await process.stdout.receive()
            assert (await run_program("sensor.py", "cellar", "wine", "--url", url, "--count", "1")).returncode == 0
            with anyio.fail_after(30):
                while b"cellar: " not in received:
                    received += await process.stdout.receive()
