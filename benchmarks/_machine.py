"""What a benchmark ran on, for its record, and its progress."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any


def machine(threads: int | None = None) -> dict[str, Any]:
    """Processor, cores, Python and load now; `threads` are those that the benchmark uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    found = {
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 1),
    }
    return found if threads is None else {**found, "threads": threads}


def tell(text: str) -> None:
    """A line of progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
