"""The backend: changes some prices at random, and posts them to the gateway."""

import argparse
import random
import sys
import time

from wsgateway import SendError
from wsgateway.client import send

START = {"ACME": 128.40, "Globex": 64.15, "Initech": 9.87, "Umbrella": 311.02, "Wonka": 45.50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:10126/live/send")
    parser.add_argument("--count", type=int, default=0, help="how often to push; 0, the default, means until Ctrl-C")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two pushes")
    options = parser.parse_args()

    prices = dict(START)
    pushed = 0
    while True:
        some = list(prices) if pushed == 0 else random.sample(list(prices), k=2)
        changed = {symbol: round(prices[symbol] * random.uniform(0.98, 1.02), 2) for symbol in some}
        prices.update(changed)
        try:
            sent = send(options.url, changed, id="stocks")
        except (SendError, OSError) as exc:
            sys.exit(f"{options.url}: {exc}")
        print(f"{changed} to {sent.recipients} pages")
        pushed += 1
        if pushed == options.count:
            return
        time.sleep(options.interval)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
