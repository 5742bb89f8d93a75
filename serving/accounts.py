"""The accounts that a scorer knows: their states, verdict figures and strongest evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillwatch.serving.verdict import Evidence

BLOCK = 4096
EVIDENCE_KEPT = 5


class AccountTable:
    """Records of fixed size in blocks: growing copies nothing, and an account keeps its row."""

    def __init__(self, dtype: np.dtype, block: int = BLOCK) -> None:
        self._dtype = dtype
        self._block = block
        self._blocks: list[np.ndarray] = []
        self._rows: dict[str, int] = {}
        self._evidence: list[list[Evidence]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, account_id: str) -> bool:
        return account_id in self._rows

    @property
    def names(self) -> Sequence[str]:
        """Account ids in the order in which they were first seen."""
        return list(self._rows)

    def row(self, account_id: str) -> int:
        """The account's row; a new account gets an empty record."""
        row = self._rows.get(account_id)
        if row is None:
            row = self._rows[account_id] = len(self._rows)
            self._evidence.append([])
            if row // self._block == len(self._blocks):
                self._blocks.append(np.zeros(self._block, dtype=self._dtype))
        return row

    def record(self, row: int) -> np.void:
        """A view of one record: writing to it changes the table."""
        return self._blocks[row // self._block][row % self._block]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Copies of these records, a structured array (B,)."""
        found = np.empty(len(rows), dtype=self._dtype)
        for block in np.unique(rows // self._block):
            inside = rows // self._block == block
            found[inside] = self._blocks[block][rows[inside] % self._block]
        return found

    def scatter(self, rows: np.ndarray, records: np.ndarray) -> None:
        """Put records back; rows must differ from each other."""
        for block in np.unique(rows // self._block):
            inside = rows // self._block == block
            self._blocks[block][rows[inside] % self._block] = records[inside]

    def weakest_evidence(self, row: int) -> float:
        """Contribution that an event must exceed to be kept as evidence."""
        kept = self._evidence[row]
        return kept[-1].contribution if len(kept) == EVIDENCE_KEPT else -1.0

    def add_evidence(self, row: int, evidence: Evidence) -> None:
        """Keep the strongest few; of equal ones the earlier stays first."""
        kept = self._evidence[row]
        kept.append(evidence)
        kept.sort(key=lambda item: -item.contribution)
        del kept[EVIDENCE_KEPT:]

    def evidence(self, row: int) -> tuple[Evidence, ...]:
        return tuple(self._evidence[row])
