"""Which bucket a customer falls into: the hash behind a sticky split, as Caddy evaluates it.

Arithmetic of whole numbers that stay below 2**63 at every step, because the language in which a router
computes the same (CEL) refuses to overflow. Six bytes at a time go through a polynomial modulo the Mersenne
prime 2**31 - 1; two rounds of shift and multiply spread what differs only in its last bits.
"""

from typing import Final

from finflow.rollout.verdicts import FULL_WEIGHT_BP

PRIME: Final = 2**31 - 1
FACTOR: Final = 1_664_525_013
# The rounds at the end: (shift, odd factor below 2**30); what they multiply is cut to 32 bits each time.
ROUNDS: Final = ((15, 739_982_445), (12, 695_872_825))
LAST_SHIFT: Final = 15
CHUNK_BYTES: Final = 6
# Of longer keys, the first and the last half of this many bytes count, and the length.
HASHED_BYTES: Final = 96

# A request without a key stands behind every customer: it moves to the candidate with the last of them.
KEYLESS_BUCKET: Final = FULL_WEIGHT_BP - 1


def bucket_of(key: str, seed: int) -> int:
    """0 to 9,999, the same for the same key and seed; the candidate has those below its weight."""
    if not key:
        return KEYLESS_BUCKET
    data = key.encode()
    value = (seed * FACTOR + 2 * len(data)) % PRIME
    for chunk in _chunks(data):
        value = (value * FACTOR + int.from_bytes(chunk)) % PRIME
    for shift, factor in ROUNDS:
        value = (value ^ value >> shift) * factor % 2**32
    return (value ^ value >> LAST_SHIFT) % FULL_WEIGHT_BP


def _chunks(data: bytes) -> list[bytes]:
    half = HASHED_BYTES // 2
    kept = data if len(data) <= HASHED_BYTES else data[:half] + data[-half:]
    return [kept[at : at + CHUNK_BYTES] for at in range(0, len(kept), CHUNK_BYTES)]
