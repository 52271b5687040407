"""The time of day may be set back an hour, so durations are measured on the monotonic clock."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "wsgateway"

WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

SHOWN = {
    "admin/pages/gateway.py": 1,
    "admin/pages/overview.py": 1,
    "cli/doctor.py": 1,
    "gateway/trend.py": 3,
    "hub/connection.py": 1,
    "hub/pubsub.py": 1,
    "hub/recording.py": 1,
}
"""The uses of the time of day that are shown to readers: when a connection opened, an event happened, a message was
published, or a sample of a chart was taken, and until when a certificate is valid."""

SHARED = {
    "cluster/history/nats.py": 1,
    "cluster/history/stream_reader.py": 1,
    "cluster/records.py": 2,
    "hub/shared_channel.py": 1,
}
"""The uses where processes have no other clock in common: until when a publication may be sent, and whether the shared
history keeps it still. If the clocks differ, it is sent for longer or shorter, or read from the history again."""

TOKENS = {
    "admin/rates.py": 1,
    "protocols/centrifuge/tokens.py": 1,
    "protocols/expiry.py": 3,
    "protocols/identity.py": 2,
}
"""The uses where an issuer of tokens has named the time of day at which something expires."""


def test_only_a_time_that_is_shown_is_the_time_of_day() -> None:
    found: dict[str, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL:
                name = path.relative_to(PACKAGE).as_posix()
                found[name] = found.get(name, 0) + 1
            assert not (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime")), path
    assert found == SHOWN | SHARED | TOKENS
