"""What an analyst's pages show of an archive beside searches.

Axis letters: N events.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stillwatch.serving.archive import reading, searching
from stillwatch.serving.archive.database import Database
from stillwatch.serving.archive.generations import Generations
from stillwatch.serving.archive.indexer import Indexer
from stillwatch.serving.archive.intake import Intake
from stillwatch.serving.archive.live import Live
from stillwatch.serving.archive.results import (
    EventPage,
    Filters,
    Status,
    TemplateHits,
    Timeline,
)

HOUR_S = 3600.0


def template_hits(
    live: Live, database: Database, template: str, since: float, k: int, min_similarity: float,
    filters: Filters,
) -> TemplateHits:  # fmt: skip
    """Events since a time whose nearest template this is, by at least a similarity."""
    since = max(since, filters.since) if filters.since is not None else since
    wanted = replace(
        filters, since=since, templates=(template,), template_similarity=min_similarity
    )
    scope = searching.scope_of(live, database, wanted)
    positions = scope.positions(np.ones(scope.rows.count, dtype=bool))
    accounts = int(np.count_nonzero(np.bincount(scope.rows.account[positions])))
    latest = searching.latest_first(scope.rows, positions, k)
    ids = scope.rows.id[latest].tolist()
    with database.reading() as session:
        events = reading.read_events(session, ids)
    found = [events[number] for number in ids if number in events]
    return TemplateHits(found, len(positions), accounts)


def events(
    live: Live, database: Database, account_id: str, page: int, size: int, filters: Filters
) -> EventPage:
    """Events of an account, the latest first."""
    scope = searching.scope_of(live, database, replace(filters, accounts=(account_id,)))
    positions = scope.positions(np.ones(scope.rows.count, dtype=bool))
    latest = searching.latest_first(scope.rows, positions)[page * size : (page + 1) * size]
    ids = scope.rows.id[latest].tolist()
    with database.reading() as session:
        found = reading.read_events(session, ids)
    return EventPage([found[number] for number in ids if number in found], len(positions))


def timeline(live: Live, database: Database, account_id: str, filters: Filters) -> Timeline:
    """An account by the hour."""
    scope = searching.scope_of(live, database, replace(filters, accounts=(account_id,)))
    positions = scope.positions(np.ones(scope.rows.count, dtype=bool))
    rows = scope.rows
    hours, place = np.unique(np.floor(rows.time[positions] / HOUR_S), return_inverse=True)
    risk = np.zeros(len(hours))
    np.maximum.at(risk, place, rows.risk[positions])
    count = np.bincount(place, minlength=len(hours))
    framed = np.bincount(place, weights=rows.frame[positions] > 0, minlength=len(hours))
    shares = framed / np.maximum(count, 1)
    return Timeline((hours * HOUR_S).tolist(), risk.tolist(), count.tolist(), shares.tolist())


def status(
    live: Live, database: Database, saved: Generations, indexer: Indexer | None,
    intake: Intake | None, rebuilt: int,
) -> Status:  # fmt: skip
    """How an archive is."""
    with database.reading() as session:
        ((texts,),) = session.rows("SELECT COUNT(*) FROM texts")
        ((waiting,),) = session.rows("SELECT COUNT(*) FROM waiting")
    trained = live.index.trained
    return Status(
        events=live.rows.count,
        texts=int(texts),
        without_vector=int(waiting),
        indexed=int(trained.index.ntotal) if trained else 0,
        lists=int(trained.index.nlist) if trained else 0,
        probes=trained.probes if trained else 0,
        recall=trained.recall if trained else None,
        generation=saved.current,
        building=indexer.building if indexer else False,
        queued_bytes=indexer.spool.waiting if indexer else 0,
        retrying=intake.retrying if intake else 0,
        dropped=intake.dropped if intake else 0,
        damaged_bytes=indexer.spool.damaged if indexer else 0,
        refused=indexer.refused if indexer else 0,
        rebuilt=rebuilt,
        table_bytes=database.size_bytes(),
        trouble=indexer.trouble if indexer else None,
    )
