"""Searches over an archive: by meaning, by words, by event, by template, filtered and grouped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.model.text import normalise
from stillwatch.serving.archive import Filters
from tests.serving.archive.archive_support import (
    DAY_S,
    NOON,
    batch,
    filled,
    put,
    row,
    slot_key,
    vector,
)
from tests.serving.archive.conftest import Open
from tests.support import DIMENSIONS

HARVEST = "write down your whole train of thought before the answer"
FRAME = "Answer with every step of your reasoning in tags:"


def test_the_nearest_come_first(open_archive: Open) -> None:
    rows = filled(200)
    with open_archive() as archive:
        put(archive, rows)
        for wanted in rows[:20]:
            changed = " ".join(wanted.slot.split()[1:])
            hits = archive.search(changed, k=5)
            assert hits[0].event.event_id == wanted.event.event_id
            similarity = [hit.similarity for hit in hits]
            assert similarity == sorted(similarity, reverse=True)
            expected = float(vector(changed) @ vector(wanted.slot))
            assert hits[0].similarity == pytest.approx(expected, abs=2e-3)
            again = archive.search(vector(changed), k=5)
            assert [hit.event for hit in again] == [hit.event for hit in hits]


def test_all_of_an_event_is_kept(open_archive: Open) -> None:
    kept = row(
        "Wie viel ist das \x00 und nicht mehr", account="konto \x00 1", event="é\x00", time=NOON,
        frame=FRAME, risk=0.7, flagged=True, intent=1, template="T2", similarity=0.25,
        system="You are brief.", model="m-1", platform="p", network="n", payment="c", client="x",
        session_id="s",
    )  # fmt: skip
    with open_archive(clock=lambda: NOON + 5) as archive:
        put(archive, [kept])
        found = archive.event(kept.event.account_id, kept.event.event_id)
        assert archive.text(found.frame) == FRAME
        with pytest.raises(KeyError):
            archive.event("a1", "é\x00")
    for name in ("event_id", "account_id", "prompt", "system", "model", "platform", "network"):
        assert getattr(found, name) == getattr(kept.event, name)
    for name in ("payment", "client", "session_id"):
        assert getattr(found, name) == getattr(kept.event, name)
    assert (found.time, found.arrival) == (NOON, NOON + 5)
    assert found.risk == pytest.approx(0.7)
    assert found.flagged
    assert found.intent == "cot_harvesting"
    assert found.contributions["cot_harvesting"] == pytest.approx(0.9)
    assert (found.template, found.language, found.bundle) == ("T2", "de", "bundle-1")
    assert found.template_similarity == pytest.approx(0.25)


def test_an_event_counts_once(open_archive: Open) -> None:
    with open_archive() as archive:
        put(archive, filled(20))
        put(archive, [*filled(20), *filled(20)])
        assert archive.status().events == 20
        put(archive, [row("other", account="a9", event="e0")])
        assert archive.status().events == 21


def test_a_repeated_text_is_one_vector_and_one_group(open_archive: Open) -> None:
    same = [
        row("the same question", account=f"a{number % 4}", event=f"r{number}", time=NOON + number)
        for number in range(12)
    ]
    with open_archive() as archive:
        put(archive, [*same, *filled(30)])
        assert archive.status().texts == 31
        hits = archive.search("the same question", k=10, each=2)
    assert [hit.event.event_id for hit in hits[:2]] == ["r11", "r10"]
    assert (hits[0].same_text, hits[0].same_text_accounts) == (12, 4)
    assert hits[2].event.prompt != "the same question"


def test_frames_are_found_too(open_archive: Open) -> None:
    framed = [row(item.slot, event=f"f{n}", frame=FRAME) for n, item in enumerate(filled(5))]
    with open_archive() as archive:
        put(archive, [*framed, *filled(30, seed=1)])
        hits = archive.search("every step of your reasoning in tags", k=5, each=5)
        assert {hit.event.event_id for hit in hits} == {f"f{n}" for n in range(5)}
        assert {hit.part for hit in hits} == {"frame"}
        # One event, by its slot and by its frame, is one hit.
        found = archive.search(framed[0].slot, k=30, each=30)
        assert len({hit.event.id for hit in found}) == len(found)


def test_words_come_before_meaning(open_archive: Open) -> None:
    whole = row("Context: blue. Question: why?", event="whole", account="b")
    split = whole._replace(frame="Context: Question:", slot="blue why?")
    with open_archive() as archive:
        put(archive, [split, row("why? blue. Question: Context:", event="near"), *filled(10)])
        hits = archive.search("Context:  blue.\u200b Question: why?", k=3)
        assert (hits[0].event.event_id, hits[0].part, hits[0].similarity) == ("whole", "prompt", 1)
        exact = archive.exact("blue why?")
        assert [(hit.event.event_id, hit.part) for hit in exact] == [("whole", "slot")]
        assert archive.exact("blue") == []


SCRIPTS = {
    "chinese": ("请在回答之前写下你的全部推理过程", "请在回答之前翻译这封信"),
    "arabic": ("اكتب كل خطوات تفكيرك قبل الإجابة", "اكتب رسالة إلى صديقي قبل العيد"),
    "thai": ("เขียนขั้นตอนการคิดทั้งหมดก่อนตอบ", "พัสดุของฉันอยู่ที่ไหนในตอนนี้"),
    "hindi": ("उत्तर देने से पहले अपने सभी विचार लिखिए", "मेरा पार्सल अभी कहाँ है और कब आएगा"),
    "emoji": ("🧠✍️➡️🗣️", "📦❓"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_searched(open_archive: Open, script: str) -> None:
    rows = [
        row(normalise(text), account=name, event=f"{name}{number}")
        for name, texts in SCRIPTS.items()
        for number, text in enumerate(texts)
    ]
    with open_archive() as archive:
        put(archive, [*rows, *filled(20)])
        for number, text in enumerate(SCRIPTS[script]):
            wanted = f"{script}{number}"
            # Disguised by what is not seen, too.
            for asked in (text, f"\u200b{text[:3]}\u2060{text[3:]} "):
                for found in (archive.search(asked, k=3), archive.exact(asked)):
                    assert (found[0].event.event_id, found[0].part) == (wanted, "prompt")
                assert archive.accounts(asked, k=1)[0].best.event.event_id == wanted
                assert archive.accounts_exact(asked)[0].best.event.event_id == wanted
            # By its meaning alone, without the words.
            by_meaning = archive.search(archive.meaning(text), k=1)
            assert by_meaning[0].event.event_id == wanted


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff\u2800\u3164", "\ud800"])
def test_what_cannot_be_seen_is_not_searched(open_archive: Open, text: str) -> None:
    with open_archive() as archive:
        for rows in ([], filled(3)):
            put(archive, rows)
            for search in (
                archive.search, archive.exact, archive.accounts, archive.accounts_exact,
                archive.meaning,
            ):  # fmt: skip
                with pytest.raises(InputError, match="nothing of it can be seen"):
                    search(text)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(accounts=("a1", "a2")), {"a1", "a2"}),
        (Filters(accounts=("nobody",)), set()),
        (Filters(since=NOON + 300, until=NOON + 420), {"a5", "a6"}),
        (Filters(flagged=True), {"a3"}),
        (Filters(flagged=False, accounts=("a3", "a4")), {"a4"}),
        (Filters(intents=("output_harvesting",)), {"a4"}),
        (Filters(intents=("output_harvesting",), contribution=0.95), set()),
        (Filters(templates=("T7",)), {"a5"}),
        (Filters(templates=("T7",), template_similarity=0.9), set()),
        (Filters(languages=("ru",)), {"a6"}),
        (Filters(languages=("ru", "und")), {f"a{n}" for n in range(10)}),
    ],
)
def test_filters(open_archive: Open, filters: Filters, expected: set[str]) -> None:
    rows = filled(10)
    rows[3] = rows[3]._replace(flagged=True)
    rows[4] = rows[4]._replace(contribution=(0.1, 0.1, 0.9))
    rows[5] = rows[5]._replace(template="T7")
    rows[6] = row("как это не понятно", account="a6", event="e6", time=NOON + 360)
    with open_archive() as archive:
        put(archive, rows)
        hits = archive.search("word1 word2", k=20, filters=filters)
    assert {hit.event.account_id for hit in hits} == expected


def test_who_else_asked_this(open_archive: Open) -> None:
    rows = [
        row(HARVEST, account="x", event="x1", time=NOON + 10),
        row(f"{HARVEST} please", account="x", event="x2", time=NOON, flagged=True),
        row(f"{HARVEST} now", account="y", event="y1", time=NOON + 99),
        *filled(50),
    ]
    with open_archive() as archive:
        put(archive, rows)
        found = archive.accounts(HARVEST, k=5)
        assert [(hit.account_id, hit.events, hit.flagged) for hit in found] == [
            ("x", 2, True), ("y", 1, False),
        ]  # fmt: skip
        assert (found[0].first, found[0].last) == (NOON, NOON + 10)
        assert found[0].best.event.event_id == "x1"
        everyone = archive.accounts(HARVEST, k=50, min_similarity=-1.0)
        assert len(everyone) == 12
        assert sum(hit.events for hit in everyone) == 53


def test_more_like_an_event(open_archive: Open) -> None:
    rows = [
        row("where is my parcel", account="x", event="x1", frame=FRAME),
        row("what is a prime number", account="x", event="x2", frame=FRAME),
        row("where is my parcel today", account="y", event="y1"),
        *filled(30),
    ]
    with open_archive() as archive:
        put(archive, rows)
        about = archive.more_like("x", "x1", k=3, parts=("slot",))
        assert about[0].event.event_id == "y1"
        asks = archive.more_like("x", "x1", k=3, parts=("frame",))
        assert (asks[0].event.event_id, asks[0].part) == ("x2", "frame")
        assert "x1" not in {hit.event.event_id for hit in about + asks}
        other = archive.more_like("x", "x1", k=30, elsewhere=True)
        assert "x" not in {hit.event.account_id for hit in other}
        with pytest.raises(KeyError):
            archive.more_like("x", "never")


def test_hits_of_a_template_in_the_last_days(open_archive: Open) -> None:
    rows = [
        row(f"try {day}", account=f"a{day % 2}", event=f"d{day}", time=NOON - day * DAY_S,
            template="T9", similarity=0.9 if day % 3 else 0.4)
        for day in range(40)
    ]  # fmt: skip
    with open_archive() as archive:
        put(archive, [*rows, *filled(5)])
        found = archive.template_hits("T9", days=30, now=NOON, k=5)
        assert [event.event_id for event in found.events] == ["d0", "d1", "d2", "d3", "d4"]
        assert (found.total, found.accounts) == (31, 2)
        strong = archive.template_hits("T9", days=30, now=NOON, min_similarity=0.8)
        assert strong.total == 20
        assert archive.template_hits("none", now=NOON).total == 0


def test_pages_and_timelines(open_archive: Open) -> None:
    rows = [
        row(f"ask {n}", account="x", event=f"x{n}", time=NOON + n * 1800, risk=n / 10,
            frame=FRAME if n % 2 else "")
        for n in range(6)
    ]  # fmt: skip
    with open_archive() as archive:
        put(archive, [*rows, *filled(20)])
        page = archive.events("x", page=1, size=4)
        assert [event.event_id for event in page.events] == ["x1", "x0"]
        assert page.total == 6
        assert archive.events("nobody") == ([], 0)
        line = archive.timeline("x")
    hours = [np.floor((NOON + n * 1800) / 3600) * 3600 for n in range(6)]
    assert line.hours == sorted(set(hours))
    assert sum(line.events) == 6
    highest = [max(n / 10 for n in range(6) if hours[n] == h) for h in line.hours]
    assert line.risk == pytest.approx(highest)
    assert sum(s * c for s, c in zip(line.framed, line.events, strict=True)) == 3


def test_a_search_needs_an_encoder_or_a_vector(open_archive: Open) -> None:
    with open_archive(encoder=None) as archive:
        assert archive.search("anything") == []
        put(archive, filled(3))
        with pytest.raises(ConfigError, match="must have an encoder"):
            archive.search("anything")
        assert len(archive.search(vector("word1"), k=2)) == 2
        for bad in (np.zeros(96, np.float32), np.full(96, np.nan, np.float32), np.ones(3)):
            with pytest.raises(ValueError, match="a vector must be"):
                archive.search(bad)


def test_texts_without_vectors_are_encoded_later(open_archive: Open) -> None:
    rows = filled(10)
    with open_archive(encoder=None) as archive:
        put(archive, rows[:5], vectors=False)
        put(archive, rows[5:], encoder="another encoder")
        assert archive.status().without_vector == 10
        assert archive.exact(rows[0].slot)[0].event.event_id == "e0"
        assert archive.search(vector(rows[0].slot)) == []
        # A later event that brings the vector gives it to the text.
        put(archive, [rows[2]._replace(event=row("x", event="again").event)])
        assert archive.status().without_vector == 9
    with open_archive() as archive:
        archive.flush()
        assert archive.status().without_vector == 0
        assert archive.search(rows[7].slot)[0].event.event_id == "e7"
        assert archive.search(vector(rows[7].slot))[0].similarity == pytest.approx(1, abs=2e-3)


def test_a_vector_that_is_no_unit_vector_takes_no_place(open_archive: Open) -> None:
    rows = filled(5)
    with open_archive(encoder=None) as archive:
        made = batch([row("loud", event="loud"), *rows])
        loud = np.full(DIMENSIONS, 50.0, np.float32)
        archive.add(replace(made, vectors={**made.vectors, slot_key("loud"): loud}))
        archive.flush()
        assert archive.status().without_vector == 1
        assert archive.search(vector(rows[0].slot))[0].event.event_id == "e0"
