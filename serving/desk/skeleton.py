"""The frame that some prompts have in common, as the text of a template."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stillwatch.data.errors import InputError
from stillwatch.model.framing import MIN_FRAME_BYTES, MIN_FRAME_WORDS
from stillwatch.model.stream import read_text
from stillwatch.model.templates import MAX_TEXT_CHARS, SLOT
from stillwatch.model.text import word_spans
from stillwatch.serving.archive.language import guess_language
from stillwatch.serving.desk.records import Proposal

SHARE = 0.6
"""Of different prompts that have to share the frame: some of a harvester's may be others."""
MAX_PROMPTS = 200
ANCHORS = 16
"""Prompts that are tried as the one whose words the frame has."""
_EDGE_CHARS = 4000
"""Only this much of each end of a prompt is looked at."""


def propose(prompts: Sequence[str]) -> Proposal:
    """The longest frame that at least SHARE of the different prompts share at their beginning and
    end, with `{slot}` where they differ; words are compared without case, disguises undone.

    InputError for fewer than two different prompts, or more than MAX_PROMPTS, or if they share too
    little for a frame.
    """
    return propose_from(prompts)[0]


def propose_from(prompts: Sequence[str]) -> tuple[Proposal, list[int]]:
    """As `propose`, with the places of the prompts that share the frame. Of the others nothing is
    in it."""
    read = [_clip(read_text(prompt)) for prompt in prompts]
    texts = list(dict.fromkeys(read))
    if not 2 <= len(texts) <= MAX_PROMPTS:
        raise InputError(
            f"a frame must be that of 2 to {MAX_PROMPTS} different prompts, however: there "
            f"{'are ' + str(len(texts)) if len(texts) != 1 else 'is one'}; choose others"
        )
    spans = [word_spans(text) for text in texts]
    words = [
        [text[start:stop].casefold() for start, stop in own]
        for text, own in zip(texts, spans, strict=True)
    ]
    needed = max(2, math.ceil(SHARE * len(texts)))
    best = (0, 0, 0, 0, 0)
    step = max(1, len(texts) // ANCHORS)
    for anchor in range(0, len(texts), step):
        for head, tail, shared in _frames(words[anchor], words, needed):
            # Of equally long frames the one that more prompts share.
            best = max(best, (head + tail, shared, -anchor, head, tail))
    length, shared, negative, head, tail = best
    text, own, of = texts[-negative], spans[-negative], words[-negative]
    opening = text[: own[head - 1][1]] if head else ""
    closing = text[own[len(own) - tail][0] :] if tail else ""
    frame = _join(opening, closing)
    if length < MIN_FRAME_WORDS or len(frame.encode()) < MIN_FRAME_BYTES + len(SLOT):
        raise InputError(
            f"most of the prompts must share {MIN_FRAME_WORDS} words or more at their beginning "
            "and end, however: they do not; choose prompts of one kind"
        )
    sharing = {
        one
        for one, other in zip(texts, words, strict=True)
        if _common(of, other) >= head
        and min(_common(of[::-1], other[::-1]), len(other) - head) >= tail
    }
    language = guess_language(frame.replace(SLOT, " "))
    places = [place for place, one in enumerate(read) if one in sharing]
    return Proposal(frame, length, shared, len(texts), language), places


def _frames(
    own: Sequence[str], words: Sequence[Sequence[str]], needed: int
) -> list[tuple[int, int, int]]:
    """For each length of a common beginning, the longest end that `needed` prompts share with it:
    words of the beginning, of the end, and how many share both."""
    heads = [_common(own, other) for other in words]
    tails = [_common(own[::-1], other[::-1]) for other in words]
    found = []
    for head in sorted({min(value, len(own)) for value in heads} | {0}):
        # A prompt's end may not take the words of its beginning.
        left = sorted(
            (
                min(tail, len(other) - head)
                for value, tail, other in zip(heads, tails, words, strict=True)
                if value >= head
            ),
            reverse=True,
        )
        if len(left) >= needed:
            tail = max(left[needed - 1], 0)
            found.append((head, tail, sum(value >= tail for value in left)))
    return found


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _join(opening: str, closing: str) -> str:
    """Both with the slot between them, what is nearest to it if that is too long."""
    opening, closing = (part.replace(SLOT, " ").strip() for part in (opening, closing))
    room = MAX_TEXT_CHARS - len(SLOT) - 2
    if len(opening) + len(closing) > room:
        half = room // 2
        before = max(half, room - len(closing))
        opening = opening[-before:]
        closing = closing[: room - len(opening)]
    return "\n".join(part for part in (opening, SLOT, closing) if part)


def _clip(text: str) -> str:
    if len(text) <= 2 * _EDGE_CHARS:
        return text
    return f"{text[:_EDGE_CHARS]}\n{text[-_EDGE_CHARS:]}"
