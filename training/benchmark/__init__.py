"""How a detector is judged: test streams, baselines, figures, tables."""
