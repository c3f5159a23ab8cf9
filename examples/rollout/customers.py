"""Forty customers who buy apples until they are told to stop (SIGTERM); then: who answered, and how often."""

import collections
import itertools
import json
import signal
import socket
import sys
import threading
import time
from urllib.request import Request, urlopen

port = int(sys.argv[1])
answered: collections.Counter[str] = collections.Counter()


def buys(customer: int) -> None:
    """One customer, who asks twice a second and gives up for no error."""
    for apples in itertools.cycle((1, 2, 3, 4, 5)):
        asked = Request(
            f"http://127.0.0.1:{port}/{apples}", headers={"X-Customer-Id": f"customer-{customer}"}
        )
        try:
            with urlopen(asked, timeout=5) as answer:
                answered[f"{json.load(answer)['version']} answered"] += 1
        except OSError:
            answered["no answer to"] += 1
        time.sleep(0.5)


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.1)  # the shop is not open yet
    for number in range(40):
        threading.Thread(target=buys, args=(number,), daemon=True).start()
    signal.pause()
finally:
    for what, times in sorted(answered.items()):
        print(f"{what} {times:,} requests")
