"""The accounts that a scorer knows: their states, verdict figures and strongest evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillwatch.serving.verdict import Evidence

BLOCK = 4096
EVIDENCE_KEPT = 5


class Checkout:
    """Copies of some accounts' records and evidence, to be changed and put back whole.

    names: B different account ids; records: a structured array (B,).
    """

    def __init__(
        self, names: Sequence[str], records: np.ndarray, evidence: list[list[Evidence]]
    ) -> None:
        self.names = names
        self.records = records
        self._evidence = evidence

    def weakest_evidence(self, position: int) -> float:
        """Contribution that an event must exceed to be kept as evidence."""
        kept = self._evidence[position]
        return kept[-1].contribution if len(kept) == EVIDENCE_KEPT else -1.0

    def add_evidence(self, position: int, evidence: Evidence) -> None:
        """Keep the strongest few; of equal ones the earlier stays first."""
        kept = self._evidence[position]
        kept.append(evidence)
        kept.sort(key=lambda item: -item.contribution)
        del kept[EVIDENCE_KEPT:]

    def evidence(self, position: int) -> tuple[Evidence, ...]:
        return tuple(self._evidence[position])


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

    def check_out(self, names: Sequence[str]) -> Checkout:
        """Copies of these accounts, which must differ from each other; empty ones of accounts that
        the table does not know. It learns of them when the copies are put back."""
        records = np.zeros(len(names), dtype=self._dtype)
        evidence: list[list[Evidence]] = []
        for position, name in enumerate(names):
            row = self._rows.get(name)
            if row is not None:
                records[position] = self.record(row)
            evidence.append([] if row is None else list(self._evidence[row]))
        return Checkout(names, records, evidence)

    def put_back(self, checkout: Checkout) -> None:
        """Take over what was changed."""
        for position, name in enumerate(checkout.names):
            row = self._rows.get(name)
            if row is None:
                row = self._rows[name] = len(self._rows)
                self._evidence.append([])
                if row // self._block == len(self._blocks):
                    self._blocks.append(np.zeros(self._block, dtype=self._dtype))
            self._blocks[row // self._block][row % self._block] = checkout.records[position]
            self._evidence[row] = list(checkout.evidence(position))

    def row(self, account_id: str) -> int:
        """The account's row; KeyError if it was never put back."""
        return self._rows[account_id]

    def record(self, row: int) -> np.void:
        return self._blocks[row // self._block][row % self._block]

    def evidence(self, row: int) -> tuple[Evidence, ...]:
        return tuple(self._evidence[row])
