"""The accounts that a scorer knows: their states, verdict figures and strongest evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stillwatch.serving.verdict import Evidence


class Kept(NamedTuple):
    """Evidence, and a hash of its prompt: repeats of one prompt are evidence once."""

    prompt_hash: int
    evidence: Evidence


BLOCK = 4096
EVIDENCE_KEPT = 5


class Checkout:
    """Copies of some accounts' records and evidence, to be changed and put back whole.

    names: B different account ids; records: a structured array (B,).
    """

    def __init__(
        self, names: Sequence[str], records: np.ndarray, kept: list[tuple[Kept, ...]]
    ) -> None:
        self.names = names
        self.records = records
        self.kept = kept

    def weakest_evidence(self, position: int) -> float:
        """Contribution that an event must exceed to be kept as evidence."""
        kept = self.kept[position]
        return kept[-1].evidence.contribution if len(kept) == EVIDENCE_KEPT else -1.0

    def add_evidence(self, position: int, new: Kept) -> None:
        """Keep the strongest few of different prompts; of equal ones the earlier stays first."""
        strongest: dict[int, Kept] = {}
        for item in sorted(
            (*self.kept[position], new), key=lambda item: -item.evidence.contribution
        ):
            strongest.setdefault(item.prompt_hash, item)
        self.kept[position] = tuple(strongest.values())[:EVIDENCE_KEPT]

    def evidence(self, position: int) -> tuple[Evidence, ...]:
        return tuple(item.evidence for item in self.kept[position])


class AccountTable:
    """Records of fixed size in blocks: growing copies nothing, and an account keeps its row."""

    def __init__(self, dtype: np.dtype, block: int = BLOCK) -> None:
        self._dtype = dtype
        self._block = block
        self._blocks: list[np.ndarray] = []
        self._rows: dict[str, int] = {}
        self._kept: list[tuple[Kept, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> Sequence[str]:
        """Account ids in the order in which they were first seen."""
        return list(self._rows)

    def check_out(self, names: Sequence[str]) -> Checkout:
        """Copies of these accounts, which must differ from each other; empty ones of accounts that
        the table does not know. It learns of them when the copies are put back."""
        records = np.zeros(len(names), dtype=self._dtype)
        kept: list[tuple[Kept, ...]] = []
        for position, name in enumerate(names):
            row = self._rows.get(name)
            if row is not None:
                records[position] = self.record(row)
            kept.append(() if row is None else self._kept[row])
        return Checkout(names, records, kept)

    def put_back(self, checkout: Checkout) -> None:
        """Take over what was changed, whole even if it is interrupted."""
        try:
            self._take(checkout)
        except BaseException:
            # Once more: what is taken twice is the same.
            self._take(checkout)
            raise

    def _take(self, checkout: Checkout) -> None:
        for position, name in enumerate(checkout.names):
            row = self._rows.get(name, len(self._rows))
            if row // self._block == len(self._blocks):
                self._blocks.append(np.zeros(self._block, dtype=self._dtype))
            self._blocks[row // self._block][row % self._block] = checkout.records[position]
            self._kept[row : row + 1] = [checkout.kept[position]]
            # Last: a row that has a name has all the rest.
            self._rows[name] = row

    def row(self, account_id: str) -> int:
        """The account's row; KeyError if it was never put back."""
        return self._rows[account_id]

    def record(self, row: int) -> np.void:
        return self._blocks[row // self._block][row % self._block]

    def evidence(self, row: int) -> tuple[Evidence, ...]:
        return tuple(item.evidence for item in self._kept[row])
