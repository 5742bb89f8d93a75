"""The HTTP service: events in, verdicts out, with keys, limits, metrics and a clean stop."""
