"""``docs/metrics.md``, made from the families themselves: what is not in the document is not scraped.

``python -m pulsering_server.metrics_doc > docs/metrics.md`` writes it; a test holds it to that.
"""

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from pulsering_server.metrics import FAMILIES, Family

__all__ = ["reference"]

_INTRODUCTION = """\
# Metrics

What `GET /metrics` of a node's admin port says, in the format that the scraper accepts, OpenMetrics or
Prometheus text. Counters start at 0 with the process; histograms have buckets that double. Nothing tells of
single users, and every label has few values. A node of several cores is scraped core by core, at consecutive
ports.

Generated from the code: `python -m pulsering_server.metrics_doc > docs/metrics.md`.

What to look at first, and what to do about it: [runbook.md](runbook.md). A dashboard and alert rules come in
`deploy/` ([deploy.md](deploy.md)). Besides these there are the `process_…` metrics that prometheus-client
gives every process: processor, memory, open files, start time.

| metric | type | labels | what it says |
|---|---|---|---|
"""


def reference() -> str:
    """The document."""
    return _INTRODUCTION + "".join(map(_line, FAMILIES))


def _line(family: Family) -> str:
    return f"| `{family.full_name}` | {_kind(family)} | {_labels(family)} | {family.help} |\n"


def _kind(family: Family) -> str:
    if family.kind is HistogramMetricFamily:
        return "histogram"
    return "counter" if family.kind is CounterMetricFamily else "gauge"


def _labels(family: Family) -> str:
    if family.labels:
        return ", ".join(f"`{label}`" for label in family.labels)
    return f"`{family.label}`: {', '.join(family.values)}" if family.label else ""


if __name__ == "__main__":
    print(reference(), end="")
