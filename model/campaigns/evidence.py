"""What ties accounts together: skeletons that they share and keys that they have in common.

A piece of evidence is a set of accounts and, for a skeleton, the events that hold it. What
everybody has, a client library or a greeting, ties nobody; what it takes to count is stated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillwatch.model.campaigns.index import EventTable, Key
from stillwatch.model.campaigns.skeletons import MIN_ACCOUNTS, Skeletons

EvidenceKind = Literal["skeleton", "keys"]

MIN_SHARE = 0.12
"""Of an account's events that must hold a skeleton, by the middle one of its accounts, or
MIN_EVENTS of them: what people say in passing (a follow-up, a greeting) ties nobody."""
MIN_EVENTS = 3
MIN_TEXTS = 3
"""Different prompts that must hold a skeleton: one prompt that goes round ties nobody."""
MIN_VARIETY = 0.2
"""Share of a skeleton's events that have a text of their own, likewise."""
ENOUGH_TEXTS = 2.0
"""Times the root of its events: so many texts are enough, whatever their share. A list that
thousands of accounts work through is sent again and again."""
MAX_KEY_SHARE = 0.02
"""A key that more of all accounts have, and more than MAX_KEY_ACCOUNTS of its kind, is a shared
exit, a payment service or a client library."""
MAX_KEY_ACCOUNTS = {"network": 50, "payment": 50, "client": 3}
"""A client is the caller's own word, and few words are used."""


@dataclass(frozen=True)
class Evidence:
    """`accounts` int64, sorted; `events` int64, those that hold the skeleton, empty for keys.
    `identity` names it in other runs."""

    kind: EvidenceKind
    identity: str
    accounts: np.ndarray
    events: np.ndarray
    words: int = 0
    keys: tuple[Key, ...] = ()


def skeleton_evidence(table: EventTable, skeletons: Skeletons) -> list[Evidence]:
    """The skeletons that are a part of what their accounts do, and more than one prompt."""
    bounds = np.searchsorted(skeletons.skeleton, np.arange(len(skeletons) + 1))
    found = []
    for number in range(len(skeletons)):
        events = skeletons.event[bounds[number] : bounds[number + 1]]
        texts = len(np.unique(table.text[events]))
        many = min(MIN_VARIETY * len(events), ENOUGH_TEXTS * len(events) ** 0.5)
        if texts < max(MIN_TEXTS, many):
            continue
        accounts, counts = np.unique(table.account[events], return_counts=True)
        if np.median(counts / table.sent[accounts]) < MIN_SHARE and np.median(counts) < MIN_EVENTS:
            continue
        found.append(
            Evidence(
                "skeleton", f"skeleton:{int(skeletons.identity[number]):010x}", accounts, events,
                int(skeletons.words[number]),
            )
        )  # fmt: skip
    return found


def key_evidence(keys: Mapping[Key, set[int]], accounts: int) -> list[Evidence]:
    """Accounts that rare keys tie together, directly or through others. `accounts` is how many
    there are in all."""
    most = MAX_KEY_SHARE * accounts
    rare = sorted(
        key for key, own in keys.items() if 2 <= len(own) <= max(MAX_KEY_ACCOUNTS[key.kind], most)
    )
    if not rare:
        return []
    rows = np.concatenate([np.full(len(keys[key]), row) for row, key in enumerate(rare)])
    columns = np.concatenate([np.array(sorted(keys[key])) for key in rare])
    total = len(rare) + accounts
    graph = coo_array((np.ones(len(rows)), (rows, len(rare) + columns)), shape=(total, total))
    label = connected_components(graph, directed=False)[1]
    members: dict[int, tuple[list[Key], set[int]]] = {}
    for key, own in zip(rare, label[: len(rare)], strict=True):
        names, tied = members.setdefault(int(own), ([], set()))
        names.append(key)
        tied |= keys[key]
    nothing = np.zeros(0, dtype=np.int64)
    return [
        Evidence(
            "keys", f"{names[0].kind}:{names[0].value}", np.array(sorted(tied)), nothing,
            keys=tuple(names),
        )
        for names, tied in members.values()
        if len(tied) >= MIN_ACCOUNTS
    ]  # fmt: skip
