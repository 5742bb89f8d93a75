"""What Stillwatch reads and writes: events, labels, log formats, corpora and the simulator."""
