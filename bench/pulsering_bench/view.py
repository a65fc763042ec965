"""What a demo looks like: a live dashboard on a terminal, a line every two seconds without one, a verdict
at the end.

Pure: a ``Frame`` or a ``Verdict`` in, something rich can print out. Nothing here measures anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pulsering_bench.truth import Wrong

VERDICT_WIDTH: Final = 96
STATE_STYLES: Final = {"UN": "green", "UW": "yellow", "UR": "yellow", "DN": "bold red"}
STATE_WORDS: Final = {"UN": "up", "UW": "warming", "UR": "draining", "DN": "down"}
_BARS: Final = " ▁▂▃▄▅▆▇█"
_TRACK: Final = 46
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class NodeLine:
    """One node, as the client sees it now."""

    name: str
    address: str
    state: str
    users: int | None = None
    warming_s: float = 0.0


@dataclass(frozen=True)
class Happening:
    """Something worth remembering, at seconds since the start."""

    at: float
    text: str
    style: str = ""


@dataclass(frozen=True)
class Frame:
    """One moment of a demo."""

    elapsed: float
    seconds: float
    truth: tuple[int, int]
    """The least and the most users that can be online."""
    counted: int | None
    counted_exactly: bool
    heartbeats_per_s: float
    gets_per_s: float
    p50_ms: float
    p99_ms: float
    reads: int
    ghosts: int
    false_offlines: int
    unknowns: int
    nodes: Sequence[NodeLine] = ()
    happenings: Sequence[Happening] = ()
    p99s_ms: Sequence[float] = ()
    """p99 of each second so far."""


@dataclass(frozen=True)
class Verdict:
    """How a demo ended. ``document`` is what ``--json`` prints."""

    reads_checked: int
    ghosts: int
    false_offlines: int
    unknowns: int
    warm_reads: int
    """Reads from the moment on when every node had been up for a ttl."""
    warm_unknowns: int
    online: int
    offline: int
    undecided: int
    users: int
    heartbeats_per_s: float
    gets_per_s: float
    get_p50_ms: float
    get_p99_ms: float
    seconds: float
    seed: int
    heartbeats: int
    unacknowledged: int
    failed_calls: int
    count_drift: float | None
    """How far count() was at most from what can be true, as a share; None if it was never exact."""
    generator_lag_p99_ms: float
    generator_cpu: float
    """Share of one core that the generator itself used."""
    unknown_reasons: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    examples: tuple[Wrong, ...] = ()
    happenings: tuple[Happening, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every answer was right, and there was at least one."""
        return self.ghosts == 0 and self.false_offlines == 0 and self.reads_checked > 0

    @property
    def document(self) -> dict[str, Any]:
        """The verdict as a JSON object; names once given keep their meaning."""
        return {
            "passed": self.passed,
            "reads_checked": self.reads_checked,
            "ghosts": self.ghosts,
            "false_offlines": self.false_offlines,
            "unknowns": self.unknowns,
            "warm_reads": self.warm_reads,
            "warm_unknowns": self.warm_unknowns,
            "online": self.online,
            "offline": self.offline,
            "undecided": self.undecided,
            "heartbeats_per_s": round(self.heartbeats_per_s, 1),
            "gets_per_s": round(self.gets_per_s, 1),
            "get_p50_ms": round(self.get_p50_ms, 3),
            "get_p99_ms": round(self.get_p99_ms, 3),
            "users": self.users,
            "seconds": self.seconds,
            "seed": self.seed,
            "heartbeats": self.heartbeats,
            "heartbeats_unacknowledged": self.unacknowledged,
            "failed_calls": self.failed_calls,
            "failures": self.failures,
            "unknown_reasons": self.unknown_reasons,
            "count_drift": self.count_drift,
            "generator_lag_p99_ms": round(self.generator_lag_p99_ms, 3),
            "generator_cpu": round(self.generator_cpu, 3),
            "events": [
                {"at_s": round(happening.at, 2), "what": happening.text} for happening in self.happenings
            ],
            "notes": list(self.notes),
            "wrong": [str(wrong) for wrong in self.examples],
        }


def dashboard(frame: Frame) -> RenderableType:
    """Return the live view of one moment."""
    return Panel(
        Group(_progress(frame), Text(), _numbers(frame), Text(), _nodes(frame.nodes), *_events(frame)),
        title="[bold]pulsering[/] · is this user online right now?",
        title_align="left",
        border_style="cyan",
        padding=(0, 1),
        box=box.ROUNDED,
        width=VERDICT_WIDTH,
    )


def plain_line(frame: Frame) -> str:
    """Return one moment as a line of a log."""
    nodes = " ".join(f"{node.name}={node.state}" for node in frame.nodes)
    return (
        f"{frame.elapsed:5.1f}s  online truth {_truth(frame)} service {_counted(frame)}  "
        f"heartbeats {frame.heartbeats_per_s:,.0f}/s  gets {frame.gets_per_s:,.0f}/s  "
        f"p50 {_ms(frame.p50_ms)} p99 {_ms(frame.p99_ms)}  "
        f"ghosts {frame.ghosts} false offlines {frame.false_offlines} "
        f"unknown {_share(frame.unknowns, frame.reads)}  {nodes}"
    )


def verdict_table(verdict: Verdict) -> RenderableType:
    """Return the end of the story."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    checked = verdict.reads_checked
    table.add_row(
        "reads checked", f"[bold]{checked:,}[/]", f"{verdict.online:,} online, {verdict.offline:,} offline"
    )
    table.add_row("ghosts", _must_be_zero(verdict.ghosts), "read online, but silent too long or gone")
    table.add_row("false offlines", _must_be_zero(verdict.false_offlines), "read offline, but beating")
    after = _share(verdict.warm_unknowns, verdict.warm_reads)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(verdict.unknown_reasons.items()))
    table.add_row("unknown", f"{verdict.unknowns:,}", f"never a guess; {after} once the cluster was warm")
    if reasons:
        table.add_row("", "", f"why: {reasons}")
    table.add_row(
        "either was right", f"{verdict.undecided:,}", "read during the call or tick that changed it"
    )
    table.add_section()
    lost = f"{verdict.unacknowledged:,} not acknowledged"
    table.add_row(
        "heartbeats", f"{verdict.heartbeats_per_s:,.0f}/s", f"{verdict.users:,} users beating; {lost}"
    )
    table.add_row("gets", f"{verdict.gets_per_s:,.0f}/s", "in batches of a page")
    table.add_row("batch-get p50", _ms(verdict.get_p50_ms), "from its intended start")
    table.add_row("batch-get p99", _ms(verdict.get_p99_ms), "the loss of a node included")
    if verdict.count_drift is not None:
        table.add_row("count() off by", f"{verdict.count_drift:.2%}", "at most, when every node could answer")
    lag = f"sent up to {_ms(verdict.generator_lag_p99_ms)} late (p99)"
    table.add_row("this generator", f"{verdict.generator_cpu:.0%}", f"of one core; {lag}")
    parts: list[RenderableType] = [table]
    parts += [Text(f"note: {note}", style="yellow") for note in verdict.notes]
    parts += [Text(str(wrong), style="red") for wrong in verdict.examples[:_EXAMPLES]]
    if verdict.passed:
        parts += [Text(), Text("✔ every answer was right", style="bold green")]
    else:
        why = (
            "nothing was read"
            if not checked
            else f"{verdict.ghosts + verdict.false_offlines:,} wrong answers"
        )
        parts += [Text(), Text(f"✘ {why}", style="bold red")]
    return Panel(
        Group(*parts),
        title="[bold]verdict[/]",
        title_align="left",
        border_style="green" if verdict.passed else "red",
        padding=(0, 1),
        box=box.ROUNDED,
        width=VERDICT_WIDTH,
    )


def _progress(frame: Frame) -> RenderableType:
    done = min(1.0, frame.elapsed / frame.seconds)
    filled = round(done * _TRACK)
    return Text.assemble(
        ("━" * filled, "cyan"),
        ("━" * (_TRACK - filled), "bright_black"),
        f"  {min(frame.elapsed, frame.seconds):4.1f} of {frame.seconds:g} s",
    )


def _numbers(frame: Frame) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    for _ in range(2):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(justify="right", no_wrap=True, min_width=18)
    grid.add_row("online, truth", f"[bold]{_truth(frame)}[/]", "ghosts", _must_be_zero(frame.ghosts))
    grid.add_row("online, count()", _counted(frame), "false offlines", _must_be_zero(frame.false_offlines))
    grid.add_row("heartbeats/s", f"{frame.heartbeats_per_s:,.0f}", "reads checked", f"{frame.reads:,}")
    grid.add_row("gets/s", f"{frame.gets_per_s:,.0f}", "unknown", _share(frame.unknowns, frame.reads))
    grid.add_row("batch-get p50", _ms(frame.p50_ms), "batch-get p99", _ms(frame.p99_ms))
    grid.add_row("p99, by second", Text(_spark(frame.p99s_ms[-18:]), style="cyan"), "", "")
    return grid


def _nodes(nodes: Sequence[NodeLine]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column("node")
    table.add_column("state")
    table.add_column("address", style="dim")
    table.add_column("users", justify="right")
    table.add_column("", style="yellow")
    for node in nodes:
        word = STATE_WORDS[node.state]
        warming = f"warm in {node.warming_s:.0f} s" if node.warming_s else ""
        users = "-" if node.users is None else f"{node.users:,}"
        style = STATE_STYLES[node.state]
        table.add_row(
            f"[bold]{node.name}[/]", f"[{style}]{node.state} {word}[/]", node.address, users, warming
        )
    return table


def _events(frame: Frame) -> list[RenderableType]:
    if not frame.happenings:
        return []
    return [
        Text(),
        *(
            Text.assemble((f"{happening.at:5.1f}s  ", "dim"), (happening.text, happening.style))
            for happening in frame.happenings[-6:]
        ),
    ]


def _spark(values: Sequence[float]) -> str:
    """Return values as bars of eight heights on a logarithmic scale, 0.1 ms to 1 s."""
    heights = (math.log10(max(0.1, min(1000.0, value)) / 0.1) / 4 for value in values)
    return "".join(_BARS[1 + round(height * 7)] for height in heights)


def _truth(frame: Frame) -> str:
    least, most = frame.truth
    return f"{least:,}" if least == most else f"{least:,}-{most:,}"


def _counted(frame: Frame) -> str:
    if frame.counted is None:
        return "-"
    return f"{frame.counted:,}" if frame.counted_exactly else f"≥ {frame.counted:,}"


def _must_be_zero(count: int) -> str:
    return "[bold green]0[/]" if count == 0 else f"[bold red]{count:,}[/]"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
