"""How a detector is made and judged: training, calibration, evaluation and baselines."""
