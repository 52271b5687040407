"""The proxy and the history server of `ipc://` in a process of their own, as the parent of `wsgateway serve` is.

`proxy.py FOLDER` prints a line when it runs, and for each line on its input how many pages it has read so far.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsgateway.cluster.brokers.ipc import take_proxy
from wsgateway.cluster.history import service
from wsgateway.cluster.history.server import HistoryServer


class CountingServer(HistoryServer):
    reads = 0

    def _read(self, items: list[Any], *arguments: Any) -> tuple[list[Any], list[bytes]]:
        CountingServer.reads += len(items)
        return super()._read(items, *arguments)


def main(arguments: Sequence[str]) -> None:
    service.HistoryServer = CountingServer  # type: ignore[misc]  # which the proxy makes
    proxy = take_proxy(Path(arguments[0]))
    if proxy is None:
        sys.exit("another process runs the proxy of this folder")
    print("runs", flush=True)
    for _ in sys.stdin:
        print(CountingServer.reads, flush=True)
    proxy.close()


if __name__ == "__main__":
    main(sys.argv[1:])
