"""The metrics are text as Prometheus's own parser reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from anubis.exposition import Histogram, Metric, expose


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample that another parser finds."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_labels_and_values_survive() -> None:
    """Whatever is in them."""
    odd = 'a"b\\c\nd'
    metric = Metric("anubis_connection_up", "gauge", "Up,\nor \\ not.")
    metric.add(1, connection="jacinth").add(0.25, connection=odd, role="x").add(float("inf"))
    assert samples(expose([metric])) == {
        ("anubis_connection_up", (("connection", "jacinth"),)): 1,
        ("anubis_connection_up", (("connection", odd), ("role", "x"))): 0.25,
        ("anubis_connection_up", ()): float("inf"),
    }
    (family,) = text_string_to_metric_families(expose([metric]))
    assert (family.type, family.documentation) == ("gauge", "Up,\nor \\ not.")


def test_a_metric_without_samples_is_left_out() -> None:
    """There is nothing to be said of it."""
    assert expose([Metric("anubis_requests_total", "counter", "None.")]) == ""


def test_a_histogram() -> None:
    """Each bucket counts all that is not longer, the last one everything."""
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    found = samples(expose([histogram.metric("trip_seconds", "Trips.")]))
    assert found == {
        ("trip_seconds_bucket", (("le", "0.1"),)): 2,
        ("trip_seconds_bucket", (("le", "1"),)): 3,
        ("trip_seconds_bucket", (("le", "+Inf"),)): 4,
        ("trip_seconds_sum", ()): 7.65,
        ("trip_seconds_count", ()): 4,
    }
    empty = samples(expose([Histogram((1.0,)).metric("trip_seconds", "Trips.")]))
    assert set(empty.values()) == {0}
