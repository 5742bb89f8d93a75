"""The scorer: the same numbers however events are handed over, and verdicts that carry evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.errors import BundleError
from stillwatch.data.events import Event
from stillwatch.model.bundle import Bundle
from stillwatch.model.detector import FRAME, SLOT, Detector, text_key
from stillwatch.serving.scorer import Scorer
from stillwatch.serving.state import EVIDENCE_KEPT, Kept, Standing
from stillwatch.serving.verdict import Evidence
from tests.support import INTENTS, TinyEncoder, make_events, tiny_bundle, tiny_scorer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def risks(scored: Scorer) -> dict[str, float]:
    return {verdict.account_id: verdict.risk for verdict in scored.verdicts()}


def test_event_by_event_equals_one_go(bundle: Bundle) -> None:
    events = make_events()
    one_go = tiny_scorer(bundle).update(events)
    single = tiny_scorer(bundle)
    by_event = [single.update([event])[0] for event in events]
    for together, apart in zip(one_go, by_event, strict=True):
        assert together.account_id == apart.account_id
        assert together.events == apart.events
        assert together.flagged_after == apart.flagged_after
        assert together.risk == pytest.approx(apart.risk, abs=1e-5)
        assert together.intents == pytest.approx(apart.intents, abs=1e-5)
    assert len({verdict.risk for verdict in one_go}) > 50


@pytest.mark.parametrize("size", [3, 17, 100])
def test_the_size_of_a_batch_changes_nothing(bundle: Bundle, size: int) -> None:
    events = make_events()
    expected = tiny_scorer(bundle)
    expected.ingest(events)
    batched = tiny_scorer(bundle)
    for start in range(0, len(events), size):
        batched.ingest(events[start : start + size])
    assert risks(batched) == pytest.approx(risks(expected), abs=1e-5)


def test_neighbours_change_nothing(bundle: Bundle) -> None:
    events = make_events()
    together = tiny_scorer(bundle)
    together.ingest(events)
    alone = tiny_scorer(bundle)
    alone.ingest([event for event in events if event.account_id == "a1"])
    assert alone.verdict("a1").risk == pytest.approx(together.verdict("a1").risk, abs=1e-5)
    ids = [[item.event_id for item in s.verdict("a1").evidence] for s in (alone, together)]
    assert ids[0] == ids[1]


def test_later_events_change_no_earlier_verdict(bundle: Bundle) -> None:
    events = make_events()
    changed = events[:60] + [replace(event, prompt="quite another") for event in events[60:]]
    before, after = tiny_scorer(bundle).update(events), tiny_scorer(bundle).update(changed)
    assert [v.risk for v in before[:60]] == pytest.approx([v.risk for v in after[:60]], abs=1e-6)
    assert [v.risk for v in before[60:]] != pytest.approx([v.risk for v in after[60:]], abs=1e-6)


def test_a_verdict_carries_its_evidence(bundle: Bundle) -> None:
    events = make_events()
    scored = tiny_scorer(bundle)
    scored.ingest(events)
    known = {event.event_id: event for event in events}
    for verdict in scored.verdicts():
        contributions = [item.contribution for item in verdict.evidence]
        assert len(contributions) == EVIDENCE_KEPT
        assert contributions == sorted(contributions, reverse=True)
        assert set(verdict.intents) == set(INTENTS)
        for item in verdict.evidence:
            assert known[item.event_id].account_id == verdict.account_id
            assert known[item.event_id].prompt.startswith(item.excerpt[:10])
            assert item.template_id in {"T0", "T1", "T2"}


def test_flags_enter_high_and_leave_low(tmp_path: Path) -> None:
    events = make_events(accounts=8, each=40)
    plain = tiny_scorer(tiny_bundle(tmp_path / "a")).update(events)
    risk = np.array([verdict.risk for verdict in plain])
    enter, leave = float(np.quantile(risk, 0.7)), float(np.quantile(risk, 0.4))
    found = tiny_scorer(tiny_bundle(tmp_path / "b", enter, leave)).update(events)
    flagged: dict[str, bool] = {}
    first: dict[str, int] = {}
    peak: dict[str, float] = {}
    kept_between = left = 0
    for verdict in found:
        name = verdict.account_id
        before = flagged.get(name, False)
        expected = verdict.risk >= enter or (before and verdict.risk >= leave)
        kept_between += before and leave <= verdict.risk < enter
        left += before and not expected
        if expected:
            first.setdefault(name, verdict.events)
        peak[name] = max(peak.get(name, 0.0), verdict.risk)
        assert verdict.flagged == expected
        # What was once flagged stays known when ordinary traffic has taken the flag away.
        assert verdict.flagged_after == first.get(name)
        assert verdict.peak_risk == pytest.approx(peak[name], abs=1e-6)
        flagged[name] = expected
    assert kept_between > 0
    assert left > 0


def test_a_text_past_the_cap_is_reported(bundle: Bundle) -> None:
    scored = tiny_scorer(bundle)
    long = " ".join(f"word{i}" for i in range(1000))
    scored.ingest([Event("e1", "a", 1.7e9, long), Event("e2", "a", 1.7e9 + 5, "short one")])
    assert scored.verdict("a").truncated == 1
    assert scored.truncated == 1


def test_repeated_texts_are_encoded_once(bundle: Bundle) -> None:
    encoder = TinyEncoder()
    scored = Scorer(Detector(bundle, encoder))
    for position in range(50):
        scored.ingest([Event(f"e{position}", f"a{position}", 1.7e9 + position, "one prompt")])
    assert encoder.encoded == 1


def test_the_vector_of_a_slot_that_is_read_in_parts_is_found_by_the_slot(bundle: Bundle) -> None:
    detector = Detector(bundle, TinyEncoder())
    page = "\n".join(
        f"The lamp on quay {n} was lit at dusk by the same old man." for n in range(12)
    )
    event = Event("e1", "a1", 1.7e9, page, system="Answer as a lighthouse keeper would.")
    scored = detector.score([event], [0], np.zeros(1, detector.record_dtype))
    (texts,) = scored.texts
    assert texts.payload != texts.slot
    assert set(scored.vectors) == {text_key(FRAME, texts.frame), text_key(SLOT, texts.slot)}


def test_signals_that_were_forgotten_come_back_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = make_events()
    expected = tiny_scorer(bundle)
    expected.ingest(events)
    monkeypatch.setattr("stillwatch.model.detector.SIGNALS_KEPT", 3)
    forgetful = tiny_scorer(bundle)
    for event in events:
        forgetful.ingest([event])
    assert risks(forgetful) == pytest.approx(risks(expected), abs=1e-5)


class BrokenEncoderError(Exception):
    pass


def test_what_fails_halfway_changes_no_account(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = make_events()
    expected = tiny_scorer(bundle).update(events)
    tried = tiny_scorer(bundle)
    tried.ingest(events[:40])

    def fail(*_: object) -> None:
        raise BrokenEncoderError

    long = Event("x", "unheard of", 1.8e9, "another prompt " * 9000)
    second = Event("y", "unheard of", 1.9e9, "and one more")
    places = ((tried.encoder, "encode"), (tried, "_judge"), (tried.store, "write"))
    for place, name in places:
        with monkeypatch.context() as broken:
            broken.setattr(place, name, fail)
            with pytest.raises(BrokenEncoderError):
                tried.ingest([*events[40:], long])
    wave, calls = tried.detector._score_wave, iter(range(9))

    def fail_late(*given: Any) -> Any:
        return fail() if next(calls) else wave(*given)

    # The first event of each account is scored by then.
    with monkeypatch.context() as broken:
        broken.setattr(tried.detector, "_score_wave", fail_late)
        with pytest.raises(BrokenEncoderError):
            tried.ingest([*events[40:], long, second])
    with pytest.raises(KeyError):
        tried.verdict("unheard of")
    assert tried.truncated == 0
    found = tried.update(events[40:])
    assert [v.risk for v in found] == pytest.approx([v.risk for v in expected[40:]], abs=1e-5)
    assert [v.events for v in found] == [v.events for v in expected[40:]]


def test_more_events_than_a_chunk_are_scored_alike(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = make_events()
    expected = tiny_scorer(bundle).update(events)
    monkeypatch.setattr("stillwatch.serving.scorer.CHUNK_EVENTS", 7)
    found = tiny_scorer(bundle).update(iter(events))
    assert [v.risk for v in found] == pytest.approx([v.risk for v in expected], abs=1e-5)


def test_a_repeated_prompt_is_evidence_once(bundle: Bundle) -> None:
    scored = tiny_scorer(bundle)
    repeats = [Event(f"r{n}", "a", 1.7e9 + n, "one and the same request") for n in range(8)]
    scored.ingest([*repeats, Event("other", "a", 1.8e9, "something else entirely")])
    first, second = scored.verdict("a").evidence
    assert {first.excerpt, second.excerpt} == {
        "one and the same request",
        "something else entirely",
    }
    # Also those that framing has forgotten: it remembers a dozen prompts.
    cycled = [Event(f"c{n}", "b", 1.7e9 + n, f"request number {n % 20}") for n in range(200)]
    scored.ingest(cycled)
    kept = [item.excerpt for item in scored.verdict("b").evidence]
    assert len(set(kept)) == len(kept) == EVIDENCE_KEPT


def test_of_one_prompt_the_strongest_event_is_kept() -> None:
    own = Standing()
    for number, strength in enumerate([0.3, 0.6, 0.5, 0.6]):
        own.add_evidence(Kept(7, Evidence(f"e{number}", "i", strength, None, 0.0, "")))
    assert [item.evidence.event_id for item in own.kept] == ["e1"]


def test_a_prompt_past_the_longest_is_read_at_both_ends_and_reported(bundle: Bundle) -> None:
    scored = tiny_scorer(bundle)
    scored.detector.encoder = TinyEncoder(max_windows=10_000)
    for number, (length, cut) in enumerate([(60_000, 0), (70_000, 1), (300_000, 1)]):
        filler = "word " * (length // 5)
        name = f"a{number}"
        scored.ingest([Event("e1", name, 1.7e9, f"begin {filler} end")])
        assert scored.verdict(name).truncated == cut
        scored.ingest([Event("e2", name, 1.7e9, "short", system=f"begin {filler} end")])
        assert scored.verdict(name).truncated == 2 * cut


@pytest.mark.parametrize("field", ["features", "classes"])
def test_a_bundle_of_other_features_is_refused(bundle: Bundle, field: str) -> None:
    names = [*getattr(bundle.manifest, field)]
    names[2] = "of another version"
    manifest = bundle.manifest.model_copy(update={field: names})
    with pytest.raises(BundleError, match=f"{field} must be those of this version.*another"):
        Detector(replace(bundle, manifest=manifest), TinyEncoder())


def test_a_bundle_must_calibrate_every_intent(bundle: Bundle) -> None:
    calibration = bundle.manifest.calibration.model_copy(
        update={"intents": bundle.manifest.calibration.intents[1:]}
    )
    manifest = bundle.manifest.model_copy(update={"calibration": calibration})
    with pytest.raises(BundleError, match="must calibrate 3 intents, however: 2"):
        Detector(replace(bundle, manifest=manifest), TinyEncoder())


def test_an_unknown_account_is_a_key_error(bundle: Bundle) -> None:
    with pytest.raises(KeyError):
        tiny_scorer(bundle).verdict("nobody")
