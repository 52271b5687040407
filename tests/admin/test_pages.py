"""The pages of one gateway over HTTP: channels, sending, closing, settings, and the actions that are offered."""

import re
from pathlib import Path

import httpx

from tests.panels import admin, visitor
from wsgateway.testing import Client

CHANNELS = """\
[gateways.chat]
port = 0
[gateways.chat.channels."room:*"]
public = true
history = 100
[gateways.chat.channels."<b>*"]
public = true
history = 10
"""

HOSTILE = "<b>&/..%2F?#é"


async def test_channels_are_filtered_paged_and_sorted(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), httpx.AsyncClient(base_url=url) as http:
        gateway = supervisor.find("chat").gateway
        for number in range(60):
            await gateway.send("x", channel=f"room:{number:02}")
        first = (await http.get("/gateways/chat/channels")).text
        assert "1 to 50 of 60" in first
        assert re.findall(r'name=([\w%]+)">', first)[:2] == ["room%3A00", "room%3A01"]
        assert "51 to 60 of 60" in (await http.get("/gateways/chat/channels?offset=50")).text
        filtered = (await http.get("/gateways/chat/channels?prefix=room:1")).text
        assert "1 to 10 of 10" in filtered
        assert "No channel name begins with" in (await http.get("/gateways/chat/channels?prefix=room:x")).text
        assert (await http.get("/gateways/chat/channels?offset=x")).status_code == 422


async def test_one_channel_shows_members_and_history_and_is_published_to(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), visitor(url) as somebody:
        found = supervisor.find("chat")
        page = "/gateways/chat/channel?name=room:1"
        async with Client(found.url, "/ws?channel=room:1") as client:
            for number in range(60):
                await found.gateway.send({"n": number}, channel="room:1")
                await client.receive()
            await found.gateway.send(b"\0\xff", channel="room:1")
            await client.receive()
            shown = (await somebody.get(page)).text
            assert next(iter(found.gateway.connections)).id in shown
            contents = re.findall(r'class="content">(.*)</code>', shown)
            assert contents[:2] == ["AP8=", "{&#34;n&#34;:59}"]
            assert len(contents) == 50
            fields = {"channel": "room:1", "message": '{"n": 1}', "as": "json"}
            sent = await somebody.submit(page, fields, action="/gateways/chat/channel/publish")
            assert "Sent to 1 connection. Its position is" in sent.text
            assert await client.receive() == '{"n":1}'
            asked = await somebody.submit(page, {"channel": "room:1"}, action="/gateways/chat/channel/forget")
            assert "Drop the history of room:1?" in asked.text
            fields = {"channel": "room:1", "sure": "yes"}
            dropped = await somebody.submit(page, fields, action="/gateways/chat/channel/forget")
            assert str(dropped.url.query, "ascii") == "name=room%3A1"
            assert "The history is empty." in dropped.text
        assert "No client is subscribed." in (await somebody.get(page)).text


async def test_names_and_contents_of_a_channel_are_text(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), visitor(url) as somebody:
        gateway = supervisor.find("chat").gateway
        await gateway.send("<script>alert(1)</script>\x1b\u202e" + "x" * 5000, channel=HOSTILE, name="<i>", key="<u>")
        listed = (await somebody.get("/gateways/chat/channels")).text
        address = re.search(r'href="\./(gateways/chat/channel\?name=[^"]+)"', listed)
        assert address
        shown = (await somebody.get(f"/{address[1]}")).text
        assert '"content">&#34;&lt;script&gt;alert(1)' in shown
        assert "x" * 1000 not in shown
        for text in (listed, shown):
            assert not re.search(r"<b>|<i>|<u>|<script>|[\x1b\u202e]", text)
        assert (await somebody.get("/gateways/chat/channel")).status_code == 422
        assert (await somebody.get(f"/gateways/chat/channel?name={'x' * 300}")).status_code == 404


FORMS: list[tuple[dict[str, str], int, str]] = [
    ({"message": "a", "to": "user", "user": "ann"}, 200, "No connection received the message"),
    ({"message": "a", "to": "channel", "channel": "room:1"}, 200, "Sent to 1 connection."),
    ({"message": "a", "to": "user"}, 422, "Enter the user."),
    ({"message": "a", "to": "all", "user": "ann"}, 422, "other recipients are entered"),
    ({"message": "a", "to": "message"}, 422, "Select the recipients."),
    ({"message": "", "to": "all"}, 422, "Enter a message."),
    ({"message": "a", "to": "connections", "connection": "x " * 3}, 200, "No connection received the message"),
    ({"message": "a", "to": "connections", "connection": " ".join(map(str, range(1001)))}, 422, "1000 are allowed"),
    ({"message": '{"a": NaN}', "as": "json"}, 422, "cannot be sent"),
    ({"message": "a", "to": "channel", "channel": "x" * 300}, 404, "x"),
]


async def test_a_message_goes_to_clear_recipients_only(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), visitor(url) as somebody:
        async with Client(supervisor.find("chat").url, "/ws?channel=room:1") as client:
            for fields, status, text in FORMS:
                answer = await somebody.submit("/gateways/chat/send", fields)
                assert answer.status_code == status, fields
                assert text in answer.text, fields
            assert await client.receive() == "a"
            fields = {"message": "a\r\n\tb", "to": "channel", "channel": "room:1"}
            assert ">a\n\tb</textarea>" in (await somebody.submit("/gateways/chat/send", {**fields, "as": "json"})).text
            await somebody.submit("/gateways/chat/send", fields)
            assert await client.receive() == "a\n\tb"
            await supervisor.find("chat").gateway.send("the second")
            assert await client.receive() == "the second"


async def test_closing_selected_connections_asks_and_says_how_many(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), visitor(url) as somebody:
        found, page = supervisor.find("chat"), "/gateways/chat/connections"
        async with Client(found.url) as one, Client(found.url) as two, Client(found.url):
            ids = [conn.id for conn in found.gateway.connections][:2]
            asked = await somebody.submit(page, {"connection": ids}, action=f"{page}/close")
            assert "2 connections will be closed." in asked.text
            assert len(found.gateway.connections) == 3
            await somebody.submit(page, {"connection": ids, "sure": "yes"}, action=f"{page}/close")
            assert [(await client.closed())[0] for client in (one, two)] == [1000, 1000]


async def test_only_actions_that_change_something_are_offered(tmp_path: Path) -> None:
    text = (
        '[gateways]\nport = 0\n[gateways.on]\n[gateways.off]\nstartup = "manual"\n'
        '[gateways.never]\nstartup = "disabled"\n'
    ).replace("[gateways]\n", "", 1)
    async with admin(tmp_path, text) as (supervisor, url), visitor(url) as somebody:

        async def offered(gateway_id: str) -> list[str]:
            return re.findall(r'name="action" value="(\w+)"', (await somebody.get(f"/gateways/{gateway_id}")).text)

        assert await offered("on") == ["restart", "stop", "delete"]
        assert await offered("off") == ["start", "delete"]
        assert await offered("never") == ["delete"]
        assert "cannot be started" in (await somebody.get("/gateways/never")).text
        await somebody.submit("/gateways/off", {"action": "start"})
        assert supervisor.state("off") == "running"
        async with Client(supervisor.find("off").url):
            asked = await somebody.submit("/gateways/off", {"action": "restart"})
            assert "1 connection will be closed." in asked.text
        asked = await somebody.submit("/gateways/off", {"action": "delete"})
        assert "The settings are removed from the file." in asked.text
        await somebody.submit("/gateways/off", {"action": "delete", "sure": "yes"})
        assert [supervised.id for supervised in supervisor.all()] == ["on", "never"]
        assert (await somebody.submit("/gateways/on", {"action": "__init__"})).status_code == 422


async def test_settings_are_found_and_mistakes_are_counted_without_scripts(tmp_path: Path) -> None:
    async with admin(tmp_path, CHANNELS) as (supervisor, url), visitor(url) as somebody:
        page = "/gateways/chat/settings"
        found = (await somebody.get(f"{page}?find=Pong")).text
        assert re.findall(r"<details .* open>\s*<summary>([\w ]+)", found) == ["Slow and silent clients"]
        plain = (await somebody.get(page)).text
        fields = dict(re.findall(r'<input id="f-(\w+)" name="\w+" value="([^"]*)"', plain))
        wrong = await somebody.submit(page, {**fields, "port": "much", "drain": "-1"})
        assert wrong.status_code == 422
        assert "2 mistakes. Nothing was saved." in wrong.text
        assert re.findall(r'href="\./gateways/chat/settings#f-(\w+)"', wrong.text) == ["port", "drain"]
        for name in ("port", "drain"):
            assert re.search(rf'id="f-{name}"[^>]* aria-invalid="true"', wrong.text)
        assert supervisor.find("chat").settings.drain == 30
