"""Searches: texts by their vectors, then the events that hold them.

Axis letters: N events, D dimensions, K texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.model.detector import FRAME, SLOT, text_key
from stillwatch.model.stream import clip_middle
from stillwatch.model.text import normalise
from stillwatch.serving.archive import reading
from stillwatch.serving.archive.columns import Rows, Wanted
from stillwatch.serving.archive.database import Database, Session
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.results import AccountHits, ArchivedEvent, Filters, Hit, Part
from stillwatch.serving.archive.vectors import Allowed
from stillwatch.serving.archive.writing import prompt_key

ACCOUNT_TEXTS = 200
"""Nearest texts of which all events are looked at when hits are grouped by account."""
FEW = 256
"""Numbers that are told apart one by one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The events of a search: those of `rows` that `mask` bool (N,) marks, all if it is None."""

    rows: Rows
    mask: np.ndarray | None
    last_text: int

    @property
    def empty(self) -> bool:
        return not self.rows.count or (self.mask is not None and not self.mask.any())

    def allowed(self) -> Allowed | None:
        """The texts of these events."""
        if self.mask is None:
            return None
        texts = np.concatenate([self.rows.slot[self.mask], self.rows.frame[self.mask]])
        return Allowed.of(texts, self.last_text)

    def within(self, positions: np.ndarray) -> np.ndarray:
        """Those of some positions that are of the search."""
        return positions if self.mask is None else positions[self.mask[positions]]

    def positions(self, condition: np.ndarray) -> np.ndarray:
        """Positions int64 of the events that a condition bool (N,) holds for."""
        if self.mask is not None:
            condition = condition & self.mask
        return np.flatnonzero(condition)


@dataclass(frozen=True, slots=True)
class Found:
    """Positions of events that agree with one text, and how; in no order."""

    positions: np.ndarray
    similarity: float
    part: Part


def scope_of(
    live: Live, database: Database, filters: Filters, without: np.ndarray | None = None
) -> Scope:
    """The events that filters let through, less those of account ids `without`."""
    rows = live.rows
    with database.reading() as session:
        mask = rows.mask(_wanted(session, filters))
    if without is not None:
        others = ~np.isin(rows.account, without)
        mask = others if mask is None else mask & others
    return Scope(rows, mask, live.last_text)


def read(text: str) -> str:
    """A text that is searched for, as those of the archive were read. InputError if nothing is
    left of it: the vector of nothing is near to whatever it happens to be near to."""
    normal = normalise(clip_middle(text))
    if not normal:
        raise InputError(
            "a search must have a text, however: nothing of it can be seen; give words, or other "
            "signs that are seen"
        )
    return normal


def by_words(scope: Scope, database: Database, normal: str) -> list[Found]:
    """Events whose whole prompt, slot or frame is this text, as `read` gives it."""
    found = []
    same = scope.positions(scope.rows.prompt == prompt_key(normal))
    if len(same):
        found.append(Found(same, 1.0, "prompt"))
    with database.reading() as session:
        slots = reading.text_ids(session, [text_key(SLOT, normal)])
        frames = reading.text_ids(session, [text_key(FRAME, normal)])
    texts = np.array([*slots, *frames], np.int64)
    return found + holding(scope, texts, np.ones(len(texts)), [same])


def by_meaning(
    scope: Scope, live: Live, vectors: Sequence[np.ndarray], k: int, taken: Sequence[Found] = ()
) -> list[Found]:
    """The events that hold one of the `k` texts nearest to any of some unit vectors float32 (D,),
    nearest first, without those that were found already."""
    if scope.empty or not vectors:
        return []
    allowed = scope.allowed()
    every = [live.nearest(vector, k, allowed) for vector in vectors]
    ids = np.concatenate([ids for ids, _ in every])
    similarity = np.concatenate([similarity for _, similarity in every])
    order = np.argsort(-similarity, kind="stable")
    # Of a text that is near to several, the nearest counts.
    _, first = np.unique(ids[order], return_index=True)
    order = order[np.sort(first)][:k]
    return holding(scope, ids[order], similarity[order], [group.positions for group in taken])


def like_event(
    scope: Scope, live: Live, database: Database, event: ArchivedEvent, parts: Sequence[Part],
    k: int,
) -> list[Found]:  # fmt: skip
    """The events that hold one of the `k` texts nearest to an event's slot or frame, without
    itself."""
    vectors = vectors_of_event(database, event, parts)
    # Left out of what is found: to leave it out of what is searched, all texts would be marked.
    # Its own texts are found too, and may be nobody else's.
    itself = Found(np.flatnonzero(scope.rows.id == event.id), 1.0, "prompt")
    return by_meaning(scope, live, vectors, k + len(vectors), [itself])[:k]


def holding(
    scope: Scope, texts: np.ndarray, similarity: np.ndarray, taken: Sequence[np.ndarray]
) -> list[Found]:
    """The events that hold each of `texts` (K,), those at positions `taken` left out. An event
    is told once, by the text that comes first."""
    told = np.zeros(scope.rows.count, dtype=bool)
    for positions in taken:
        told[positions] = True
    found, slot = [], scope.rows.slot
    values = zip(texts.tolist(), similarity.tolist(), scope.rows.holding(texts), strict=True)
    for text, value, every in values:
        held = scope.within(every)
        held = held[~told[held]]
        if len(held):
            told[held] = True
            part: Part = "slot" if slot[held[0]] == text else "frame"
            found.append(Found(held, value, part))
    return found


def to_hits(
    scope: Scope, database: Database, found: Sequence[Found], k: int, each: int
) -> list[Hit]:
    """The first `k` hits, at most `each` of one text."""
    chosen: list[tuple[int, Found, int]] = []
    account = scope.rows.account
    for group in found:
        if len(chosen) >= k:
            break
        accounts = _distinct(account[group.positions])
        latest = latest_first(scope.rows, group.positions, min(each, k - len(chosen)))
        chosen += [(number, group, accounts) for number in scope.rows.id[latest].tolist()]
    with database.reading() as session:
        events = reading.read_events(session, [number for number, _, _ in chosen])
    # What was removed meanwhile is no hit any more.
    return [
        Hit(events[number], group.similarity, group.part, len(group.positions), accounts)
        for number, group, accounts in chosen
        if number in events
    ]


def by_account(
    scope: Scope, database: Database, found: Sequence[Found], k: int
) -> list[AccountHits]:
    """The `k` accounts that have the nearest events, and among equally near ones the most."""
    if not found:
        return []
    rows = scope.rows
    positions = np.concatenate([group.positions for group in found])
    best = np.repeat(np.arange(len(found)), [len(group.positions) for group in found])
    accounts, owner = np.unique(rows.account[positions], return_inverse=True)
    count = np.bincount(owner, minlength=len(accounts))
    nearest = np.full(len(accounts), len(found))
    np.minimum.at(nearest, owner, best)
    chosen: list[tuple[np.ndarray, np.ndarray, Found]] = []
    for place in np.lexsort((accounts, -count, nearest))[:k].tolist():
        own = owner == place
        same = positions[own & (best == nearest[place])]
        chosen.append((positions[own], latest_first(rows, same), found[nearest[place]]))
    with database.reading() as session:
        events = reading.read_events(session, [int(rows.id[same[0]]) for _, same, _ in chosen])
    hits = []
    for own, same, group in chosen:
        event = events.get(int(rows.id[same[0]]))
        if event is not None:
            hits.append(
                AccountHits(
                    event.account_id, len(own), bool(rows.flagged[own].any()), group.similarity,
                    float(rows.time[own].min()), float(rows.time[own].max()),
                    Hit(event, group.similarity, group.part, len(same), 1),
                )
            )  # fmt: skip
    return hits


def vectors_of_event(
    database: Database, event: ArchivedEvent, parts: Sequence[Part]
) -> list[np.ndarray]:
    """Unit vectors float32 (D,) of an event's slot and frame, as far as they have any."""
    texts = [event.slot] if "slot" in parts else []
    if "frame" in parts and event.frame:
        texts.append(event.frame)
    with database.reading() as session:
        return list(reading.vectors_of(session, texts).vectors)


def _wanted(session: Session, filters: Filters) -> Wanted:
    names: dict[str, int] = {}
    if filters.intents or filters.languages or filters.templates:
        names = {name: number for number, name in reading.names(session).items()}

    def ids(chosen: tuple[str, ...], known: dict[str, int]) -> np.ndarray | None:
        # A name that the archive does not know has the id of nothing.
        return np.array([known.get(name, -1) for name in chosen]) if chosen else None

    return Wanted(
        filters,
        ids(filters.accounts, reading.account_ids(session, filters.accounts)),
        ids(filters.intents, names),
        ids(filters.languages, names),
        ids(filters.templates, names),
    )


def latest_first(rows: Rows, positions: np.ndarray, most: int | None = None) -> np.ndarray:
    """Positions of events by their time, the latest first; `most` of them."""
    if len(positions) < 2:
        # Most texts are one event's.
        return positions
    if most is not None and len(positions) > most:
        # Sorting all events of a frame that everybody uses would take longer than the search.
        cut = np.argpartition(-rows.time[positions], most - 1)[:most]
        positions = positions[cut]
    return positions[np.lexsort((-rows.id[positions], -rows.time[positions]))]


def _distinct(accounts: np.ndarray) -> int:
    """How many different accounts there are in (N,)."""
    if len(accounts) < FEW:
        # Counting by number takes as long as the largest number is.
        return len(set(accounts.tolist()))
    return int(np.count_nonzero(np.bincount(accounts)))
