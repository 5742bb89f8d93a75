"""How an archive is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Sizes and times of an archive."""

    queue_bytes: int = 2**30
    """Of the queue on disk; a batch beyond is not accepted."""
    retry_bytes: int = 64 * 2**20
    """Of the batches in memory that could not be accepted yet; those beyond are lost, and
    counted."""
    retention_days: float | None = None
    """Events that came earlier are removed; None keeps them."""
    retention_every_s: float = 3600.0
    interval_s: float = 0.25
    """Between two turns of the background thread: how long a new event takes to be found."""
    train_at: int = 16_384
    """With fewer texts, all are compared one by one."""
    retrain_growth: float = 4.0
    """An index is trained anew when there are this many times the vectors it was trained for."""
    save_share: float = 0.05
    """Share of vectors that are in memory alone, and read from the tables at start, above which
    the index is written; at least `save_least` of them."""
    save_least: int = 20_000
    threads: int = 1
    """That train an index."""
    backups: int = 2
    """Copies that are kept."""
    backup_hours: float | None = None
    """Between two copies that are made by themselves; None makes none."""
    backup_retry_s: float = 3600.0
    """After one that failed: it may have copied for long, and there may be no room for hours."""
    encoded_a_turn: int = 16
    """Texts that came without a vector and are encoded in one turn."""
