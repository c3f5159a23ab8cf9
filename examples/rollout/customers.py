"""Forty customers who buy apples until they are told to stop (SIGTERM); then: who answered, and how often."""

import collections
import http.client
import itertools
import json
import signal
import sys
import threading
import time

answered: collections.Counter[str] = collections.Counter()


def buys(customer: int) -> None:
    """One customer, who asks twice a second and gives up for no error."""
    for apples in itertools.cycle((1, 2, 3, 4, 5)):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
            connection.request("GET", f"/{apples}", headers={"X-Customer-Id": f"customer-{customer}"})
            answer = connection.getresponse()
            answered[json.load(answer)["version"] if answer.status == 200 else "nobody"] += 1
            connection.close()
        except OSError:
            answered["nobody"] += 1
        time.sleep(0.5)


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
for number in range(40):
    threading.Thread(target=buys, args=(number,), daemon=True).start()
try:
    signal.pause()
finally:
    for who, times in sorted(answered.items()):
        print(f"{who} answered {times:,} requests")
