"""Writes the generated parts of the documentation: `python -m tools.reference`, or `make reference`.

A part stands between `<!-- name -->` and `<!-- /name -->` in its page. A test compares each part with its source.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from wsgateway.admin import openapi
from wsgateway.admin.rest import OPERATIONS
from wsgateway.cli.arguments import Argument, setting_options
from wsgateway.cli.commands import SERVE_DEFAULTS
from wsgateway.cli.main import COMMAND_TOPICS, command_line
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.settings import ADMIN_SPECS, SPECS
from wsgateway.gateway.http import description
from wsgateway.metrics import FAMILIES, Histogram, Metrics, samples

ROOT = Path(__file__).parent.parent

Schema = Mapping[str, Any]


# Settings


def settings() -> str:
    """Return the table of the settings of a gateway."""
    rows = []
    for name, spec in SPECS.items():
        default = _default_text(SERVE_DEFAULTS.get(name, spec.default))
        rows.append((f"`{name}`", "true; in code false" if name == "local_access" else default, spec.metadata["help"]))
    return _table(("setting", "default", "what it is"), rows)


def channel_settings() -> str:
    """Return the table of the settings of a namespace of channels."""
    rows = [(f"`{spec.name}`", _default_text(spec.default), spec.metadata["help"]) for spec in fields(ChannelSettings)]
    return _table(("setting", "default", "what it is"), rows)


def admin_settings() -> str:
    """Return the table of the settings of the admin interface."""
    rows = []
    for name, spec in ADMIN_SPECS.items():
        rows.append((f"`{name.removeprefix('admin_')}`", _default_text(spec.default), spec.metadata["help"]))
    return _table(("setting", "default", "what it is"), rows)


def _default_text(default: object) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default) if default else ""


# Commands


def commands() -> str:
    """Return a section for each command, by topic, in the order of `wsgateway --help`."""
    sections = []
    with click.Context(command_line, info_name="wsgateway") as parent:
        for topic, names in COMMAND_TOPICS.items():
            sections.append(f"## {topic}\n")
            sections += [_command(name, command_line.commands[name], parent) for name in names]
    return "\n" + "\n".join(sections) + "\n"


def _command(name: str, command: click.Command, parent: click.Context) -> str:
    of_settings = {(option.name, option.help) for option in setting_options() if option.name != "config"}
    with click.Context(command, info_name=name, parent=parent) as ctx:
        usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
        rows, is_of_settings = [], False
        for param in command.get_params(ctx):
            if isinstance(param, Argument):
                rows.append((f"`{param.human_readable_name}`", param.text))
            elif isinstance(param, click.Option) and (param.name, param.help) in of_settings:
                is_of_settings = True
            elif isinstance(param, click.Option) and not param.hidden and "--help" not in param.opts:
                metavar = "" if param.is_flag else f" {param.metavar or (param.name or '').upper()}"
                rows.append((f"`{', '.join([*param.opts, *param.secondary_opts])}{metavar}`", param.help or ""))
    parts = [f"### wsgateway {name}\n", f"{command.help}\n", f"```text\n{usage}\n```\n"]
    if rows:
        parts.append(_table(("argument or option", "what it is"), rows))
    if is_of_settings:
        parts.append("Each [setting](settings.md) is an option, too, such as `--max-message-size`.\n")
    return "\n".join(parts)


# HTTP routes


def gateway_routes() -> str:
    """Return the table of the operations in the OpenAPI document of a gateway."""
    return _OpenApi(description.description(version="")).routes()


def gateway_objects() -> str:
    """Return a section for each object in the answers of a gateway."""
    return _OpenApi(description.description(version="")).objects()


def admin_routes() -> str:
    """Return the table of the operations in the OpenAPI document of the admin interface."""
    return _OpenApi(openapi.description(OPERATIONS, version="")).routes()


def admin_objects() -> str:
    """Return a section for each object in the answers of the admin interface that no answer of a gateway contains."""
    shown = description.description(version="")["components"]["schemas"]
    return _OpenApi(openapi.description(OPERATIONS, version="")).objects(without={*shown, *_BODIES})


_BODIES = {
    "NewGateway": "`id`, and [settings](settings.md)",
    "Changes": "[settings](settings.md)",
    "Message": "the fields of `/send`",
}
"""How the bodies are described that have no section of their own."""


class _OpenApi:
    """An OpenAPI document, as tables in Markdown."""

    def __init__(self, document: Schema) -> None:
        self._paths = document["paths"]
        self._schemas = document["components"]["schemas"]

    def routes(self) -> str:
        rows = []
        for path, operations in self._paths.items():
            for method, operation in operations.items():
                answers = {int(status): answer for status, answer in operation["responses"].items()}
                good = [f"{status}{self._content(answer)}" for status, answer in answers.items() if status < 300]
                bad = ", ".join(str(status) for status in answers if status >= 300)
                route = f"`{method.upper()} {path}`"
                rows.append((route, operation["summary"], self._inputs(operation), "; ".join(good), bad))
        return _table(("route", "what it does", "query and body", "answer", "errors"), rows)

    def objects(self, without: Collection[str] = ()) -> str:
        sections = []
        for name, schema in sorted(self._schemas.items()):
            if "properties" in schema and name not in without:
                text = " ".join(schema.get("description", "").split())
                sections.append(f"### {name}\n\n{text}\n\n{self._fields(schema)}".rstrip("\n") + "\n")
        return "\n" + "\n".join(sections) + "\n"

    def _fields(self, schema: Schema) -> str:
        required = schema.get("required", ())
        rows = []
        for name, field in schema["properties"].items():
            text = field.get("description", "") if "$ref" not in field else ""
            rows.append((f"`{name}`" if name in required else f"[`{name}`]", self._type(field), text))
        if not rows:
            return ""
        if any(text for _, _, text in rows):
            return _table(("field", "type", "what it is"), rows)
        return _table(("field", "type"), [row[:2] for row in rows])

    def _inputs(self, operation: Schema) -> str:
        """Return the parameters of the query and the fields of the body."""
        words = [f"`?{field['name']}=`" for field in operation.get("parameters", ()) if field["in"] == "query"]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            if "$ref" in schema:
                words.append(_BODIES.get(_name_of(schema), self._type(schema)))
            else:
                required = schema.get("required", ())
                names = sorted(schema["properties"], key=lambda name: name not in required)
                words += [f"`{name}`" if name in required else f"[`{name}`]" for name in names]
        return " ".join(words)

    def _content(self, answer: Schema) -> str:
        for media_type, content in answer.get("content", {}).items():
            if media_type != "application/json":
                return f" `{media_type}`"
            schema = content["schema"]
            choices = [choice.get("properties", {}).get("result", choice) for choice in schema.get("oneOf", [schema])]
            return next((f" {self._type(choice)}" for choice in choices if "$ref" in choice), "")
        return ""

    def _type(self, schema: Schema) -> str:
        if "$ref" in schema:
            name = _name_of(schema)
            return (
                f"[{name}](#{name.lower()})" if "properties" in self._schemas[name] else self._type(self._schemas[name])
            )
        if "enum" in schema:
            return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            in_order = sorted(choices, key=lambda choice: choice.get("type") == "null")  # as in every msgspec
            return " or ".join(self._type(choice) for choice in in_order)
        kind = schema.get("type", "any JSON value")
        if kind == "array":
            return f"array of {self._type(schema.get('items', {}))}"
        return kind if isinstance(kind, str) else " or ".join(kind)


def _name_of(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


# Metrics


def metrics() -> str:
    """Return the table of the families of metrics."""
    labels = _labels()
    rows = []
    for family, (kind, text) in FAMILIES.items():
        rows.append((f"`wsgateway_{family}`", kind, ", ".join(f"`{label}`" for label in labels[family]), text))
    return _table(("metric", "type", "labels", "what it counts"), rows)


def _labels() -> dict[str, list[str]]:
    """Return the labels of each family, without those that every family has, from samples with a value of each."""
    counted = Metrics()
    for counter in vars(counted).values():
        if isinstance(counter, dict) and counter is not counted.hook_seconds:
            counter["x"] = 1
    counted.hook_seconds["x"] = Histogram()
    families = samples(
        counted, gateway="g", node="n", connections={("plain", "websocket"): 1}, waiting=0, log_failures=0
    )
    return {
        family: sorted({label for _, labels, _ in rows for label in labels} - {"gateway", "node", "le"})
        for family, rows in families.items()
    }


# Figures


def figures(file: str, heading: str) -> Callable[[], str]:
    """Return a function that returns the table below a heading of a page of results, without its explanations."""

    def copied() -> str:
        text = (ROOT / "benchmarks" / file).read_text(encoding="utf-8")
        _, _, below = text.partition(f"\n## {heading}\n")
        match = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
        assert match, f"{file} has no table below {heading!r}"
        return match[0]

    return copied


# The parts in their pages

PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/reference/settings.md", "settings"): settings,
    ("docs/reference/settings.md", "channel settings"): channel_settings,
    ("docs/reference/settings.md", "admin settings"): admin_settings,
    ("docs/how-to/channels.md", "channel settings"): channel_settings,
    ("docs/reference/commands.md", "commands"): commands,
    ("docs/reference/http.md", "gateway routes"): gateway_routes,
    ("docs/reference/http.md", "gateway objects"): gateway_objects,
    ("docs/reference/http.md", "admin routes"): admin_routes,
    ("docs/reference/http.md", "admin objects"): admin_objects,
    ("docs/reference/metrics.md", "metrics"): metrics,
    ("docs/explanation/performance.md", "fan-out"): figures("RESULTS.md", "Fan-out, 64 bytes, 1, 4, and 16 in flight"),
    ("docs/explanation/performance.md", "connect"): figures("RESULTS.md", "Connect: 1,000 clients"),
    ("docs/explanation/performance.md", "publish"): figures("RESULTS.md", "`gateway.publish`"),
    ("docs/explanation/performance.md", "send"): figures("RESULTS.md", "`POST /send` without clients"),
    ("docs/explanation/performance.md", "broker"): figures(
        "BROKERS.md", "From `gateway.publish` to a client, p50 in ms"
    ),
}
"""The function that makes each part, by the page and the name of the part."""


def split(text: str, name: str) -> tuple[str, str, str]:
    """Return what is before the part `name`, the part, and what is behind it. Raise `ValueError` if it is missing."""
    match = re.fullmatch(rf"(.*<!-- {name} -->\n)(.*)(<!-- /{name} -->.*)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"<!-- {name} --> and <!-- /{name} --> are missing")
    return match[1], match[2], match[3]


def stale() -> Iterator[tuple[Path, str, str]]:
    """Yield the page, the name, and the new text of each part that differs from its source."""
    for (page, name), make in PARTS.items():
        path = ROOT / page
        _, part, _ = split(path.read_text(encoding="utf-8"), name)
        if part != make():
            yield path, name, make()


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    for path, name, part in stale():
        before, _, after = split(path.read_text(encoding="utf-8"), name)
        path.write_text(before + part + after, encoding="utf-8")
        print(f"wrote {name} of {path.relative_to(ROOT)}")
