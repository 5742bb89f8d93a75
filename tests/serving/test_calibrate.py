"""Calibration to a site's own traffic: its references and threshold, the same detector, or a
refusal."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillwatch.data.errors import BundleError, InputError, OutputError
from stillwatch.data.events import Event
from stillwatch.model.adapt import SITE_PARTS
from stillwatch.model.bundle import Bundle, load_bundle, manifest_fields, write_bundle
from stillwatch.model.encoder import TextVectors
from stillwatch.model.features import SCALARS
from stillwatch.model.heads import PLACES, IntentHeads
from stillwatch.model.stream import EventTexts
from stillwatch.model.templates import BenignIndex
from stillwatch.model.thresholds import (
    SiteThreshold,
    accounts_needed,
    allowed_above,
    site_threshold,
)
from stillwatch.model.traffic import TRAFFIC_FILE
from stillwatch.serving import calibrate as calibration
from stillwatch.serving.calibrate import (
    SITE,
    SUSPECT_RISK,
    Calibrated,
    Chunks,
    calibrate,
    check_enough,
    part_of,
)
from stillwatch.serving.scorer import Scorer
from tests.support import DIMENSIONS, TinyEncoder, make_events, tiny_bundle, tiny_scorer

ACCOUNTS, RATE = 120, 0.1
EVENTS = make_events(accounts=ACCOUNTS, each=4)
PARTS = [
    {event.account_id for event in EVENTS if part_of(event.account_id) == part}
    for part in range(SITE_PARTS)
]


def chunks_of(events: list[Event], labels: list[str] | None = None, size: int = 64) -> Chunks:
    """A log that can be opened again and again."""

    @contextmanager
    def opened(label: str) -> Iterator[Iterator[list[Event]]]:
        if labels is not None:
            labels.append(label)
        yield iter([events[n : n + size] for n in range(0, len(events), size)])

    return opened


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    # Random weights, moved to where ordinary traffic stands.
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", offset=-4.0)


@pytest.fixture(scope="module", autouse=True)
def peaks() -> Iterator[list[np.ndarray]]:
    """The risks that set the threshold of each calibration so far, part by part."""
    found: list[np.ndarray] = []

    def seen(peaks: np.ndarray, max_fpr: float) -> SiteThreshold:
        found.append(peaks)
        return site_threshold(peaks, max_fpr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "site_threshold", seen)
        yield found


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("calibrated") / "own"
    return calibrate(tiny_scorer(bundle), chunks_of(EVENTS), folder, RATE)


def with_offset(bundle: Bundle, folder: Path, offset: float) -> Scorer:
    """A scorer whose every risk is moved by this much, as a logit."""
    fields = manifest_fields(bundle.manifest)
    moved = {"slope": 1.0, "offset": offset}
    fields["calibration"] = {"risk": moved, "intents": [moved] * len(bundle.manifest.intents)}
    return tiny_scorer(write_bundle(folder, fields, bundle.content))


def test_the_detector_stays_the_same(bundle: Bundle, made: Calibrated) -> None:
    after = made.bundle
    assert load_bundle(after.path).id == after.id != bundle.id
    differing = {name for name in bundle.content if bundle.content[name] != after.content[name]}
    assert differing == {"benign.faiss", "heads.safetensors", "README.md"}
    before, fields = manifest_fields(bundle.manifest), manifest_fields(after.manifest)
    changed = {name for name in before if before[name] != fields[name]}
    assert changed == {"thresholds", "benign_sources", "golden_risks"}
    assert [path.name for path in after.path.parent.iterdir()] == ["own"]


def test_the_thresholds_are_the_site_s_own(made: Calibrated) -> None:
    thresholds, found = made.bundle.manifest.thresholds, made.threshold
    assert (thresholds.enter, thresholds.leave) == (found.enter, found.leave)
    assert thresholds.leave < thresholds.enter
    assert (thresholds.max_fpr, thresholds.ordinary_accounts) == (RATE, ACCOUNTS)
    assert "own ordinary traffic" in thresholds.origin
    assert found.above == allowed_above(ACCOUNTS, RATE) > 0


def test_ordinary_accounts_are_flagged_as_the_bound_allows(made: Calibrated) -> None:
    scorer = tiny_scorer(made.bundle)
    verdicts = scorer.update(EVENTS)
    flagged = {verdict.account_id for verdict in verdicts if verdict.flagged}
    assert len(flagged) <= RATE * ACCOUNTS


def test_references_are_the_site_s_own(bundle: Bundle, made: Calibrated) -> None:
    sources = made.bundle.manifest.benign_sources
    assert sources[:2] == bundle.manifest.benign_sources
    assert made.references == sources.count(SITE) > 0
    index = BenignIndex.from_files(made.bundle.content, DIMENSIONS, sources)
    np.testing.assert_allclose(np.linalg.norm(index.vectors(), axis=1), 1, rtol=1e-5)


def test_each_part_teaches_what_scores_the_others(
    bundle: Bundle, made: Calibrated, peaks: list[np.ndarray], tmp_path: Path
) -> None:
    changed = [
        replace(event, prompt=f"{event.prompt} otherwise")
        if event.account_id in PARTS[1]
        else event
        for event in EVENTS
    ]
    again = calibrate(tiny_scorer(bundle), chunks_of(changed), tmp_path / "own", RATE)
    assert again.bundle.content["benign.faiss"] != made.bundle.content["benign.faiss"]
    # The other parts sent the same.
    bounds = np.cumsum([len(part) for part in PARTS])[:-1]
    before, after = (np.split(own, bounds) for own in (peaks[0], peaks[-1]))
    for part in (0, 2, 3):
        assert not np.allclose(before[part], after[part], atol=1e-6)


def test_what_the_bundle_learns_from_all_sets_no_threshold(
    bundle: Bundle, made: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = calibration.SiteSample.join

    def without_the_last(samples: Iterable[calibration.SiteSample]) -> calibration.SiteSample:
        every = list(samples)
        return join(every[:-1] if len(every) == SITE_PARTS else every)

    monkeypatch.setattr(calibration.SiteSample, "join", without_the_last)
    found = calibrate(tiny_scorer(bundle), chunks_of(EVENTS), tmp_path / "own", RATE)
    assert found.threshold == made.threshold
    assert found.bundle.content["benign.faiss"] != made.bundle.content["benign.faiss"]


def test_vectors_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "KEPT_TEXTS", 3)
    asked: list[str] = []

    class Counting(TinyEncoder):
        def encode(self, texts: Sequence[str]) -> list[TextVectors]:
            asked.extend(texts)
            return super().encode(texts)

    encoder = calibration._Remembering(Counting())
    for texts in (["a", "b", "a"], ["b", "c", "d"], ["d", "a", "c"]):
        found = encoder.encode(texts)
        expected = TinyEncoder().encode(texts)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.vector, other.vector)
    assert asked == ["a", "b", "c", "d", "d"]


def test_calibrating_again_replaces_the_references(made: Calibrated, tmp_path: Path) -> None:
    scorer = tiny_scorer(made.bundle)
    again = calibrate(scorer, chunks_of(EVENTS), tmp_path / "again", RATE)
    assert again.bundle.manifest.benign_sources == made.bundle.manifest.benign_sources
    card = "README.md"
    assert {k: v for k, v in again.bundle.content.items() if k != card} == {
        k: v for k, v in made.bundle.content.items() if k != card
    }
    assert again.bundle.content[card].count(b"## Calibrated") == 1
    assert again.threshold == made.threshold


def test_the_bundle_tells_of_the_traffic_that_set_its_threshold(
    bundle: Bundle, made: Calibrated, tmp_path: Path
) -> None:
    assert bundle.traffic is None
    found = made.bundle.traffic
    assert found is not None
    assert (found.events, found.accounts) == (len(EVENTS), ACCOUNTS)
    times = [event.timestamp for event in EVENTS]
    assert (found.start, found.end) == (min(times), max(times))
    assert found.means["prompts"] == len(EVENTS) / ACCOUNTS
    assert all(sum(counts.values()) == len(EVENTS) for counts in found.counts.values())
    risks = [verdict.risk for verdict in tiny_scorer(made.bundle).update(EVENTS)]
    assert found.means["risk"] == pytest.approx(np.mean(risks), rel=0.5)
    # No text and no account is in it.
    written = found.to_bytes().decode()
    assert not any(event.prompt in written or event.account_id in written for event in EVENTS)
    fields, content = manifest_fields(made.bundle.manifest), dict(made.bundle.content)
    for broken in (b"", b"{}", written.replace('"risk"', '"rusk"').encode()):
        content[TRAFFIC_FILE] = broken
        with pytest.raises(BundleError, match=TRAFFIC_FILE):
            write_bundle(tmp_path / "broken", fields, content)


def test_the_card_tells_of_the_calibration(bundle: Bundle, made: Calibrated) -> None:
    card = made.bundle.content["README.md"].decode()
    assert card.startswith(bundle.content["README.md"].decode())
    assert f"From bundle {bundle.id}" in card
    assert f"{made.threshold.enter:.6f}" in card
    assert f"{made.threshold.above} of the {made.threshold.accounts} accounts" in card
    assert f"at most {100 * RATE:g}% of" in card


def test_the_log_is_read_in_pieces_of_any_size(
    bundle: Bundle, made: Calibrated, tmp_path: Path
) -> None:
    labels: list[str] = []
    scorer = tiny_scorer(bundle)
    found = calibrate(scorer, chunks_of(EVENTS, labels, size=7), tmp_path / "own", RATE)
    assert len(set(labels)) == len(labels) == 1 + SITE_PARTS
    # The centres depend a little on the order in which texts come.
    assert found.threshold.enter == pytest.approx(made.threshold.enter, abs=0.01)


def test_more_texts_than_are_sampled_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TEXTS_AN_ACCOUNT", 50)
    sample = calibration.SiteSample()
    for number in range(1000):
        sample.add("busy", texts_of(f"asked {number}", ""))
        sample.add("quiet", texts_of(f"said {number % 3}", "a frame"))
    accounts, texts = sample.texts(PLACES.index("slot"))
    assert accounts.tolist() == [0] * 50
    numbers = [int(text.split()[1]) for text in texts]
    assert len(set(numbers)) == 50
    assert 350 < np.mean(numbers) < 650
    assert max(numbers) > 900
    accounts, texts = sample.texts(PLACES.index("frame"))
    assert (accounts.tolist(), texts) == ([1], ["a frame"])


def test_more_accounts_than_are_sampled_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SAMPLED_ACCOUNTS", 20)
    sample = calibration.SiteSample()
    for number in range(500):
        sample.add(f"account {number}", texts_of(f"asked {number}", ""))
        assert len(sample._kept) <= 40
    accounts, texts = sample.texts(PLACES.index("slot"))
    assert len(set(accounts.tolist())) == len(texts) == 20


def texts_of(slot: str, frame: str) -> EventTexts:
    return EventTexts(frame, slot, zlib.crc32(frame.encode()), [0.0] * len(SCALARS), False)


def test_the_heads_learn_what_the_site_sends(bundle: Bundle, made: Calibrated) -> None:
    before, after = (
        IntentHeads.from_bytes(b.content["heads.safetensors"], DIMENSIONS, len(b.manifest.classes))
        for b in (bundle, made.bundle)
    )
    texts = [event.prompt for event in EVENTS]
    vectors = np.stack([item.vector for item in TinyEncoder().encode(texts)])
    column = len(bundle.manifest.intents)
    moved = after.dense_logits(vectors) - before.dense_logits(vectors)
    assert moved[:, column].mean() < -0.05
    np.testing.assert_array_equal(moved[:, column + 1 :], 0)


def test_too_few_accounts_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    needed = accounts_needed(0.003)
    accounts = {event.account_id for event in EVENTS}
    with pytest.raises(InputError, match=f"at least {needed} .* the log holds {ACCOUNTS}"):
        check_enough(accounts, 0.003)
    check_enough(accounts, RATE)
    with pytest.raises(InputError, match=f"at least {needed} .* the log holds {ACCOUNTS}"):
        calibrate(tiny_scorer(bundle), chunks_of(EVENTS), tmp_path / "own", 0.003)
    assert not list(tmp_path.iterdir())


def test_a_log_that_holds_campaigns_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    scorer = with_offset(bundle, tmp_path / "alarmed", 20.0)
    with pytest.raises(
        InputError, match=rf"{ACCOUNTS} of {ACCOUNTS} accounts have a risk above {SUSPECT_RISK}"
    ):
        calibrate(scorer, chunks_of(EVENTS), tmp_path / "own", RATE)
    assert not (tmp_path / "own").exists()


@pytest.fixture
def high(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets so many accounts have a high risk at one reading of the log."""
    peaks_of: Callable[[Scorer], np.ndarray] = Scorer.peak_risks

    def set_high(reading: int, accounts: int) -> None:
        calls = itertools.count()

        def some_are_high(self: Scorer) -> np.ndarray:
            peaks = np.minimum(peaks_of(self), 0.5)
            if next(calls) == reading:
                peaks[:accounts] = 0.95
            return peaks

        monkeypatch.setattr(Scorer, "peak_risks", some_are_high)

    return set_high


@pytest.mark.parametrize("reading", [0, SITE_PARTS])
def test_campaigns_are_refused_at_every_reading(
    bundle: Bundle, tmp_path: Path, high: Callable[[int, int], None], reading: int
) -> None:
    high(reading, 3)
    with pytest.raises(InputError, match=r"3 of .* accounts have a risk above"):
        calibrate(tiny_scorer(bundle), chunks_of(EVENTS), tmp_path / "own", RATE)
    assert not (tmp_path / "own").exists()


def test_one_odd_customer_is_no_campaign(
    bundle: Bundle, tmp_path: Path, high: Callable[[int, int], None]
) -> None:
    high(SITE_PARTS, 1)
    found = calibrate(tiny_scorer(bundle), chunks_of(EVENTS), tmp_path / "own", RATE)
    assert found.threshold.enter < 0.95


def test_a_folder_of_something_else_is_not_written_to(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(OutputError, match="must be new, empty or a bundle"):
        calibrate(tiny_scorer(bundle), chunks_of(EVENTS), tmp_path, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
