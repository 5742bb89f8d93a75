"""Texts that say the same in nearly the same words, found by the words they share in runs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

NEAR = 0.8
"""Share of the runs of two texts that they must have in common."""
RUN = 3
MOST_POSTINGS = 2000
"""A run that more texts have tells little, and is not looked up."""


class NearTexts:
    """Texts by name; adding and finding cost what the text's length does, not their number."""

    def __init__(self, texts: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._runs: dict[str, frozenset[str]] = {}
        self._holding: defaultdict[str, list[str]] = defaultdict(list)
        items = texts.items() if isinstance(texts, Mapping) else texts
        for name, text in items:
            self.add(name, text)

    def add(self, name: str, text: str) -> None:
        """Know a text by a name that is not known yet."""
        runs = runs_of(text)
        self._runs[name] = runs
        for run in runs:
            self._holding[run].append(name)

    def nearest(self, text: str) -> str | None:
        """The name of the text that has most in common with this one, None if none has enough."""
        runs = runs_of(text)
        shared: Counter[str] = Counter()
        for run in runs:
            holding = self._holding.get(run, ())
            if len(holding) <= MOST_POSTINGS:
                shared.update(holding)
        best, best_share = None, NEAR
        for name, count in shared.items():
            share = count / len(runs | self._runs[name])
            if share >= best_share and (share > best_share or best is None):
                best, best_share = name, share
        return best


def runs_of(text: str) -> frozenset[str]:
    """Runs of RUN words, or of characters where there are few words."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("{slot}", " ")
    words = re.findall(r"\w+", folded)
    if len(words) >= RUN + 2:
        return frozenset(" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))
    flat = " ".join(words)
    return frozenset(flat[i : i + RUN] for i in range(max(len(flat) - RUN + 1, 1)))
