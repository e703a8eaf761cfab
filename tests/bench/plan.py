"""Which benchmarks there are, in the order of a whole run, and how long each may take."""

from collections.abc import Mapping

TIMEOUTS_S: Mapping[str, float] = {
    "throughput": 420,
    "latency": 180,
    "post": 120,
    "history": 480,
    "output": 240,
    "containers": 240,
    "memory": 300,
    "growth": 300,
    "profile": 240,
}
"""Well above what they need on a quiet machine: who reaches it hangs."""

FULL_FACTOR = 4
END_TIMEOUT_S = 40
