"""Results of a comparison that never ran, for what is made of results."""

from typing import Any

from pulsering_bench.drive import Closed
from pulsering_bench.figures import measure_of, ratios_of
from pulsering_bench.usage import Share

__all__ = ["peer_of", "results_of", "run_of"]


def run_of(users_per_cpu_s: float, *, server: float = 1.0, generator: float = 0.3, wrong: int = 0) -> Closed:
    """A run of one CPU second of the server."""
    users = int(users_per_cpu_s)
    return Closed(users, wrong, 1.0, Share(1.0, server), Share(0.2, generator), calls=users // 10)


def peer_of(
    rate: float, size: float, *, one_key: bool = True, library: bool = True, **options: Any
) -> dict[str, Any]:
    measure = measure_of([run_of(rate, **options)] * 3)
    latency = {"p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "max_ms": 4.0, "samples": 10}
    return {
        "title": f"Store {rate:g}",
        "design": "-",
        "client_title": "-",
        "version": "1",
        "ttl_s": 20,
        "one_key_per_user": one_key,
        "has_library": library,
        "bytes_empty": 40,
        "bytes_loaded": 40 + 5 * size,
        "bytes_per_user": size,
        "bytes_per_user_of_all": size + 8.0,
        "raw": dict.fromkeys(("load", "refresh", "refresh_small", "get_hits", "get_half"), measure),
        "client": dict.fromkeys(("refresh", "get_half"), measure),
        "latency": {
            "get": latency,
            "refresh": latency,
            "generator_lag_p99_ms": 0.1,
            "server_cpu_s_per_million": 1.0,
            "unanswered": 0,
        },
        "expiry": {
            "reads": 10,
            "late_reads": 0,
            "late_s": 0.0,
            "early_reads": 0,
            "early_s": 0.0,
            "count_lag_s": None,
            "counts": True,
            "watched_s": 15.0,
            "server_cpu_s_per_million": 1.0,
            "bytes_per_user_left": 1.0,
        },
        "wrong_answers": options.get("wrong", 0),
    }


def results_of(peers: dict[str, Any]) -> dict[str, Any]:
    machine = {"date": "2026-01-02T03:04:05", "cpu": "abacus", "cores": 2, "kernel": "6", "python": "3"}
    machine |= {"commit": "abc", "command": "pulsering bench compare"}
    work = {"users": 5, "repeats": 3, "batch": 10, "client_batch": 10, "page": 10, "pages_per_s": 1}
    work |= {"beats_per_s": 1, "wave_users": 10, "wave_ttl_s": 2}
    base = {
        "machine": machine,
        "work": work,
        "peers": peers,
        "skipped": {},
        "cores": {"server": 0, "generator": 1},
    }
    return base | ratios_of(peers)
