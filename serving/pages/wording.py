"""A prompt beside the template it is near to, and which of their words differ.

Axis letters: A words of the prompt, B words of the template.
"""

from __future__ import annotations

import numpy as np

from stillwatch.model.templates import SLOT
from stillwatch.serving.pages.display import Piece
from stillwatch.serving.verdict import visible

MAX_WORDS = 400
"""Words that are compared of either: the table of a comparison has A times B places."""
MAX_CHARS = 250_000
MAX_WORD_CHARS = 60


def compare(prompt: str, template: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts as pieces of the kinds same, differ, slot (where the payload stood) and gap
    (words that are left out). Of a long prompt the part that shares most with the template."""
    known = _words(template)[:MAX_WORDS]
    words, before, after = _window(_words(prompt[:MAX_CHARS]), known)
    after = after or len(prompt) > MAX_CHARS
    same_prompt, same_template = _common(words, known)
    left = _pieces(words, same_prompt)
    if before:
        left.insert(0, Piece("gap", "…"))
    if after:
        left.append(Piece("gap", "…"))
    return left, _pieces(known, same_template)


def _window(words: list[str], known: list[str]) -> tuple[list[str], bool, bool]:
    """At most MAX_WORDS of `words` in a row, where most are known; whether any come before and
    after."""
    if len(words) <= MAX_WORDS:
        return words, False, False
    wanted = {_folded(word) for word in known}
    hits = np.array([_folded(word) in wanted for word in words], dtype=np.int64)
    total = np.concatenate([[0], np.cumsum(hits)])
    start = int(np.argmax(total[MAX_WORDS:] - total[:-MAX_WORDS]))
    return words[start : start + MAX_WORDS], start > 0, start + MAX_WORDS < len(words)


def _common(one: list[str], other: list[str]) -> tuple[set[int], set[int]]:
    """Positions of a longest sequence of words that both have in order."""
    if not one or not other:
        return set(), set()
    ids: dict[str, int] = {}
    left = np.array([ids.setdefault(_folded(word), len(ids)) for word in one])
    right = np.array([ids.setdefault(_folded(word), len(ids)) for word in other])
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=np.int32)
    for row, word in enumerate(left, start=1):
        above = table[row - 1]
        best = np.maximum(above[1:], above[:-1] + (right == word))
        table[row, 1:] = np.maximum.accumulate(best)
    a, b = len(one), len(other)
    found: tuple[set[int], set[int]] = (set(), set())
    while a and b:
        if left[a - 1] == right[b - 1]:
            found[0].add(a - 1)
            found[1].add(b - 1)
            a, b = a - 1, b - 1
        elif table[a - 1, b] >= table[a, b - 1]:
            a -= 1
        else:
            b -= 1
    return found


def _pieces(words: list[str], same: set[int]) -> list[Piece]:
    """Words joined where they are of one kind."""
    found: list[Piece] = []
    for place, word in enumerate(words):
        kind = "slot" if word == SLOT else "same" if place in same else "differ"
        shown = visible(word)[:MAX_WORD_CHARS]
        if found and found[-1].kind == kind and kind != "slot":
            found[-1] = Piece(kind, f"{found[-1].text} {shown}")
        else:
            found.append(Piece(kind, shown))
    return found


def _words(text: str) -> list[str]:
    # A slot is a word of its own, whatever stands at it.
    return text.replace(SLOT, f" {SLOT} ").split()


def _folded(word: str) -> str:
    folded = "".join(char for char in word.casefold() if char.isalnum())
    return folded or word
