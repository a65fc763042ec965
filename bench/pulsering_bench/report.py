"""The report of a comparison: for people in a terminal, as one HTML page, and as a table for the README.

All three are made of the same results and say the same: what was reached, what was not, and where the
generator was the limit so that nothing can be said. Invariant: nothing is computed here that is not in the
results.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pulsering_bench.charts import Bar, bars, figure_of
from pulsering_bench.page import document, note, section, table
from pulsering_bench.quotients import shown

__all__ = ["html_of", "markdown_of", "text_of"]

Results = Mapping[str, Any]

_RATES: Final = {
    "refresh": "Refreshes: users a second of the server's own CPU",
    "refresh_small": "Refreshes in batches of 32: users a second of the server's own CPU",
    "get_hits": "Batch gets, everybody online: users a second of the server's own CPU",
    "get_half": "Batch gets, half of them never online: users a second of the server's own CPU",
}
_CLIENT: Final = {
    "refresh": "Refreshes through the Python client, one caller: users a second of the CPU of both sides",
    "get_half": "Batch gets through the Python client, one caller: users a second of the CPU of both sides",
}
DOUBT: Final = (
    "the generator was the limit or late, other work had the core, or a round served nobody: no verdict"
)
DOUBTFUL: Final = "†"
"""Marks a figure without a verdict."""


def html_of(results: Results) -> str:
    """The page."""
    return document("Presence stores compared", _parts(results))


def text_of(results: Results) -> str:
    """What a terminal shows."""
    lines = [_facts(results), ""]
    head = (
        "",
        "refresh/s",
        "get/s",
        "get/s half",
        "B/user",
        "p50 ms",
        "p99 ms",
        "expiry",
        "count lag s",
        "wrong",
    )
    rows = [head, *(_row(peer) for peer in results["peers"].values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "Rates are users a second of the server's own CPU."]
    if any(DOUBTFUL in cell for row in rows for cell in row):
        lines.append(f"{DOUBTFUL} {DOUBT}.")
    for name, absent in results["skipped"].items():
        lines.append(f"skipped: {name}: {absent['missing']} is not installed: {absent['install']}")
    lines.append("")
    for verdict in results["verdicts"]:
        best = results["peers"].get(verdict["best_peer"], {}).get("title", "-")
        lines.append(f"{verdict['verdict']:12} {verdict['claim']} ({best}): {verdict['why']}")
    return "\n".join(lines)


def markdown_of(results: Results) -> str:
    """The table for a README, with date, machine and command above it."""
    head = ("", "refresh/s", "get/s", "bytes a user", "p99 of a page", "expiry", "wrong answers")
    lines = [_facts(results) + ".", "", "| " + " | ".join(head) + " |", "|---" + "|---:" * 6 + "|"]
    for peer in results["peers"].values():
        row = _row(peer)
        lines.append(
            "| " + " | ".join((row[0], row[1], row[2], row[4], f"{row[6]} ms", row[7], row[9])) + " |"
        )
    if any(DOUBTFUL in line for line in lines):
        lines += ["", f"{DOUBTFUL} {DOUBT}."]
    return "\n".join(lines) + "\n"


def _facts(results: Results) -> str:
    machine, work = results["machine"], results["work"]
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    return (
        f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}{commit}; {work['users']:,} users, medians of {work['repeats']}: "
        f"`{machine['command']}`"
    )


def _row(peer: Mapping[str, Any]) -> tuple[str, ...]:
    expiry, latency = peer["expiry"], peer["latency"]["get"]
    lag = expiry["count_lag_s"]
    never = f">{expiry['watched_s']:.0f}" if expiry["counts"] else "-"
    doubtful = DOUBTFUL if _is_late(peer) else ""
    return (
        str(peer["title"]),
        *(_rate(peer["raw"][measure]) for measure in ("refresh", "get_hits", "get_half")),
        f"{peer['bytes_per_user']:.1f}",
        f"{shown(latency['p50_ms'], '.2f')}{doubtful}",
        f"{shown(latency['p99_ms'], '.2f')}{doubtful}",
        _expiry_in_a_word(expiry),
        never if lag is None else f"{lag:.2f}",
        str(peer["wrong_answers"]),
    )


def _expiry_in_a_word(expiry: Mapping[str, Any]) -> str:
    """What readers saw of the wave beyond one tick: users online too long, or offline too soon."""
    late = f"{expiry['late_s']:.2f} s late" if expiry["late_reads"] else ""
    early = f"{expiry['early_s']:.2f} s early" if expiry["early_reads"] else ""
    return ", ".join(filter(None, (late, early))) or "right"


def _rate(measure: Mapping[str, Any]) -> str:
    return figure_of(measure["users_per_server_cpu_s"]) + _doubt(measure)


def _doubt(measure: Mapping[str, Any]) -> str:
    doubtful = measure["limit"] == "generator" or measure["disturbed"] or measure["rounds_for_nobody"]
    return DOUBTFUL if doubtful else ""


def _is_late(peer: Mapping[str, Any]) -> bool:
    """Whether the generator's own lateness is a good part of the latency it saw."""
    latency = peer["latency"]
    return bool(latency["generator_lag_p99_ms"] > 0.25 * (latency["get"]["p99_ms"] or 0.0))


def _parts(results: Results) -> Iterator[str]:
    peers = results["peers"]
    yield note(_facts(results).replace("`", ""))
    yield section(
        "Verdicts",
        table(
            ("claim", "ratio", "expected", "best peer", "verdict"),
            [
                (
                    v["claim"],
                    shown(v["ratio"]),
                    f"{v['wanted']:g}",
                    peers.get(v["best_peer"], {}).get("title", "-"),
                    f"{v['verdict']}: {v['why']}",
                )
                for v in results["verdicts"]
            ],
            [v["verdict"].replace(" ", "-") for v in results["verdicts"]],
        ),
        note(
            "Peers that pack many users into one key are shown beside and are no part of the ratios. Where "
            "the generator had work all the time and the server had not, there is no verdict. A server's "
            "rates are users a second of its own CPU; the rates by the clock stand in the table. "
            f"{DOUBTFUL}: {DOUBT}."
        ),
    )
    for section_name, titles, figure in (
        ("raw", _RATES, "users_per_server_cpu_s"),
        ("client", _CLIENT, "users_per_cpu_s_of_both"),
    ):
        charts = []
        for measure, title in titles.items():
            rows = [
                Bar(
                    peer["title"],
                    peer[section_name][measure][figure],
                    _kind(name, peer),
                    _doubt(peer[section_name][measure]) if section_name == "raw" else "",
                )
                for name, peer in peers.items()
            ]
            charts.append(bars(title, rows))
        what = "What a server core does" if section_name == "raw" else "Through the Python clients"
        yield section(what, *charts, _rates_table(peers, section_name))
    yield section("Memory", *_memory(results))
    yield section("Latency at the same rate for all", *_latency(results))
    yield section("A wave of users goes offline", *_expiry(results))
    yield section("Set-up", *_setup(results))


def _memory(results: Results) -> Iterator[str]:
    peers, users = results["peers"], results["work"]["users"]
    yield bars(
        "Bytes a user: what the store grew by from empty to loaded",
        [Bar(peer["title"], peer["bytes_per_user"], _kind(name, peer)) for name, peer in peers.items()],
    )
    yield table(
        ("", "empty, MiB", f"with {users:,} users, MiB", "grown by, bytes a user", "all of it, bytes a user"),
        [
            (
                peer["title"],
                *(f"{peer[key] / 2**20:.1f}" for key in ("bytes_empty", "bytes_loaded")),
                *(f"{peer[key]:.1f}" for key in ("bytes_per_user", "bytes_per_user_of_all")),
            )
            for peer in peers.values()
        ],
    )
    yield note(memory_note(results))


def memory_note(results: Results) -> str:
    """Both ratios of memory in words, and what they are of."""
    grown, whole = (shown(results[key]) for key in ("ratio_bytes_best_peer", "ratio_bytes_of_all_best_peer"))
    return (
        f"Resident memory of all processes of a store, shared pages once. By what each grew from empty to "
        f"{results['work']['users']:,} users, which is what one more user costs, the best peer with a key a "
        f"user needs {grown} times ours. By all that the processes hold it is {whole} times: there the "
        "interpreter and the buffers of an empty server count, and the fewer the users the more."
    )


def _kind(name: str, peer: Mapping[str, Any]) -> str:
    return "ours" if name == "pulsering" else "peer" if peer["one_key_per_user"] else "packed"


def _rates_table(peers: Mapping[str, Any], section_name: str) -> str:
    rows = []
    for peer in peers.values():
        for measure, found in peer[section_name].items():
            rows.append(
                (
                    peer["title"],
                    measure.replace("_", " "),
                    figure_of(found["users_per_server_cpu_s"]),
                    figure_of(found["users_per_s"]),
                    shown(found["server_cpu_s_per_million"], ".3f"),
                    shown(found["caller_cpu_s_per_million"], ".3f"),
                    shown(found["spread"], ".0%"),
                    f"{100 * found['server_busy']:.0f} / {100 * found['generator_busy']:.0f} %",
                    found["limit"],
                    str(found["wrong_answers"]),
                )
            )
    head = ("", "what", "users/s of server CPU", "users/s by the clock", "server CPU s a million")
    return table(
        (*head, "caller CPU s a million", "spread", "busy: server / caller", "limit", "wrong"),
        rows,
    )


def _latency(results: Results) -> Iterator[str]:
    work, peers = results["work"], results["peers"]
    yield note(
        f"Open loop: {work['pages_per_s']} pages a second of {work['page']} users, half of them never "
        f"online, and {work['beats_per_s']} batches of {work['page']} heartbeats a second. Each counts from "
        f"when it was due. {DOUBTFUL}: the generator itself was late by a good part of that; no verdict."
    )
    rows = [
        Bar(
            peer["title"],
            peer["latency"]["get"]["p99_ms"],
            _kind(name, peer),
            DOUBTFUL if _is_late(peer) else "",
        )
        for name, peer in peers.items()
    ]
    yield bars("p99 of a page in ms (logarithmic)", rows, logarithmic=True)
    table_rows = []
    for peer in peers.values():
        latency = peer["latency"]
        for kind in ("get", "refresh"):
            found = latency[kind]
            table_rows.append(
                (
                    peer["title"],
                    kind,
                    *(shown(found[key], ".2f") for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
                    f"{latency['generator_lag_p99_ms']:.2f}",
                    shown(latency["server_cpu_s_per_million"], ".3f"),
                    str(latency["unanswered"]),
                )
            )
    head = ("", "what", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "generator late, p99 ms")
    yield table((*head, "server CPU s a million", "unanswered"), table_rows)


def _expiry(results: Results) -> Iterator[str]:
    work = results["work"]
    yield note(
        f"{work['wave_users']:,} users with a ttl of {work['wave_ttl_s']} s, silent from then on. Late: "
        "online beyond ttl and one tick (ttl/80). Early: offline before the ttl was over. The count's lag is "
        "the time from the last user's deadline until the store itself counted nobody."
    )
    rows = []
    for peer in results["peers"].values():
        expiry = peer["expiry"]
        lag = expiry["count_lag_s"]
        rows.append(
            (
                peer["title"],
                f"{expiry['reads']:,}",
                f"{expiry['late_reads']:,} (by up to {expiry['late_s']:.2f} s)"
                if expiry["late_reads"]
                else "0",
                f"{expiry['early_reads']:,} (by up to {expiry['early_s']:.2f} s)"
                if expiry["early_reads"]
                else "0",
                f"{lag:.2f} s"
                if lag is not None
                else f"over {expiry['watched_s']:.0f} s"
                if expiry["counts"]
                else "cannot count",
                f"{expiry['server_cpu_s_per_million']:.2f}",
                f"{expiry['bytes_per_user_left']:.1f}",
            )
        )
    head = ("", "reads judged", "late", "early", "lag of the count")
    yield table((*head, "server CPU s a million, all of it", "bytes a user left"), rows)


def _setup(results: Results) -> Iterator[str]:
    yield table(
        ("", "version", "design", "client", "ttl of the rates"),
        [
            (peer["title"], peer["version"], peer["design"], peer["client_title"], f"{peer['ttl_s']} s")
            for peer in results["peers"].values()
        ],
    )
    for absent in results["skipped"].values():
        yield note(f"Skipped: {absent['title']}: {absent['missing']} is not installed: {absent['install']}")
    machine = results["machine"]
    yield table(("machine", ""), [(key, str(value)) for key, value in machine.items()])
    yield table(("work", ""), [(key, str(value)) for key, value in results["work"].items()])
    yield note(
        f"Server processes on core {results['cores']['server']}, the generator on core "
        f"{results['cores']['generator']}. Rounds go through the peers in turn. Every reply is compared with "
        "the one that is right, and read answer by answer where it differs."
    )
