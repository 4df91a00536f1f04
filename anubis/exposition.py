"""Prometheus's text format (version 0.0.4): metrics as values in, text out.

Owns the form: names, types, labels and how their values are written. Refuses to know what is
measured. https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

__all__ = ["CONTENT_TYPE", "Histogram", "Metric", "expose"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Metric:
    """One metric and its samples, each with its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> Metric:
        """Add a sample; return this metric."""
        self.samples.append((self.name, labels, value))
        return self

    def add_each(self, values: Mapping[str, float], label: str) -> Metric:
        """Add a sample for each value of a label; return this metric."""
        for text, value in sorted(values.items()):
            self.add(value, **{label: text})
        return self


@dataclass(slots=True)
class Histogram:
    """How often something took how long, in seconds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts = self.counts or [0] * (len(self.bounds) + 1)
        self.counts[sum(seconds > bound for bound in self.bounds)] += 1
        self.sum += seconds

    def metric(self, name: str, text: str) -> Metric:
        """Return it as a metric."""
        metric = Metric(name, "histogram", text)
        total = 0
        counts = self.counts or [0] * (len(self.bounds) + 1)
        for bound, count in zip((*self.bounds, inf), counts, strict=True):
            total += count
            metric.samples.append((f"{name}_bucket", {"le": _number(bound)}, total))
        metric.samples.append((f"{name}_sum", {}, self.sum))
        metric.samples.append((f"{name}_count", {}, total))
        return metric


def expose(metrics: Iterable[Metric]) -> str:
    """Write metrics; one without samples is left out."""
    lines = []
    for metric in metrics:
        if metric.samples:
            lines.append(f"# HELP {metric.name} {_escaped(metric.help)}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
        for name, labels, value in metric.samples:
            inner = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
            lines.append(
                f"{name}{{{inner}}} {_number(value)}" if inner else f"{name} {_number(value)}"
            )
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    if value == inf:
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
