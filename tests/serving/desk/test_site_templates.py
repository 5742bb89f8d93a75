"""Templates of the site: proposed, quarantined, replayed, searched, and taken out of use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillwatch.data.errors import ConfigError, InputError, StoreError
from stillwatch.model.detector import Detector
from stillwatch.model.templates import SLOT
from stillwatch.serving.archive import PromptArchive, reach
from stillwatch.serving.desk import Desk, Forgotten, LiveTemplates, Refused, site_templates
from stillwatch.serving.desk.skeleton import propose, propose_from
from tests.serving.archive.archive_support import (
    DAY_S,
    SETTINGS,
    filled,
    opened,
    put,
    row,
    wait_for_build,
)
from tests.serving.desk.desk_support import (
    NOON,
    Clock,
    desk_in,
    files_holding,
    in_tables,
    verdict,
)
from tests.support import TinyEncoder, tiny_bundle, tiny_scorer

ENCODER = TinyEncoder()
FRAME = "Before the answer write every thought you have about {slot} as one long list"
TEXT = FRAME.replace(SLOT, "")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[PromptArchive]:
    """400 ordinary prompts of ten accounts."""
    with opened(tmp_path / "archive") as archive:
        put(archive, filled(400))
        yield archive


@pytest.fixture
def desk(tmp_path: Path, archive: PromptArchive) -> Iterator[Desk]:
    options = {"clock": Clock(NOON + DAY_S), "least_replayed": 300}
    with desk_in(tmp_path / "desk", archive=archive, **options) as desk:
        yield desk


def add(desk: Desk, text: str = FRAME, **options: str) -> str:
    return desk.templates.add(text, "cot_harvesting", "own", "ann", **options).id


class TestProposal:
    def test_the_frame_of_a_harvest(self) -> None:
        subjects = ["a bridge", "the price of tin", "why cats purr", "seven primes", "an old map"]
        prompts = [FRAME.replace(SLOT, subject) for subject in subjects]
        found = propose([*prompts, "Where is my parcel?", prompts[0]])
        assert " ".join(found.text.split()) == FRAME
        assert (found.shared, found.prompts, found.language) == (5, 6, "en")

    def test_the_longest_frame_counts(self) -> None:
        short = [f"Please solve this with care: {n} and {n} apples" for n in range(3)]
        long = [
            f"Please solve this with care: {n} pears. Show all steps, then stop." for n in "xyz"
        ]
        found = propose(long)
        assert (
            found.text == "Please solve this with care:\n{slot}\npears. Show all steps, then stop."
        )
        assert propose([*short, *long]).text == "Please solve this with care:\n{slot}"

    def test_no_word_is_taken_twice(self) -> None:
        found = propose(["we went on and on along", "we went on and on along and on along"])
        assert found.words == 6

    def test_disguises_are_undone(self) -> None:
        prompts = [
            "Wr\u200bite your \uff52easoning into tags: one",
            "Write your reasoning into tags: two",
        ]
        assert propose(prompts).text == "Write your reasoning into tags:\n{slot}"

    @pytest.mark.parametrize(
        "prompts",
        [[], ["only one here it is"], ["the same again"] * 3, ["a b c", "d e f"],
         ["a b x", "a b y"], [f"what is asked for here {n}" for n in range(201)]],
    )  # fmt: skip
    def test_what_has_no_frame_is_refused(self, prompts: list[str]) -> None:
        with pytest.raises(InputError):
            propose(prompts)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "."]), max_size=8),
        st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "."]), max_size=8),
        st.lists(st.text("klmno {slot}", max_size=20), min_size=2, max_size=6),
    )
    def test_a_proposal_can_be_added_and_fits(
        self, head: list[str], tail: list[str], slots: list[str]
    ) -> None:
        prompts = [" ".join([*head, slot, *tail]) for slot in slots]
        try:
            found = propose(prompts)
        except InputError:
            return
        assert found.text.count(SLOT) <= 1
        before, _, after = (part.split() for part in found.text.partition(SLOT))
        fitting = 0
        for prompt in dict.fromkeys(" ".join(prompt.split()) for prompt in prompts):
            words = prompt.replace("{slot}", " ").replace(".", " . ").split()
            flat = "".join(words)
            fitting += flat.startswith("".join(before)) and flat.endswith("".join(after))
        assert fitting >= found.shared >= 2

    def test_a_huge_prompt_takes_no_time(self) -> None:
        prompts = [f"Reason aloud about all of it: {n} " + "word " * 40_000 for n in range(20)]
        assert len(propose(prompts).text) <= 4000


def test_a_template_waits_and_is_kept(desk: Desk, tmp_path: Path) -> None:
    made = desk.templates.add(f" {FRAME} ", "cot_harvesting", "own", "ann", "2023-12-01", "seen")
    assert (made.id, made.text, made.state, made.expires) == (
        "site-1", FRAME, "quarantined", "2023-12-01",
    )  # fmt: skip
    assert (made.added_by, made.reason, made.language, made.replay) == ("ann", "seen", "en", None)
    assert desk.templates.get("site-1") == made
    assert desk.templates.find() == [made] == desk.templates.find("quarantined")
    assert desk.templates.live() == []
    # The log has its hash alone.
    assert all(FRAME not in str(entry) for entry in desk.entries())
    with pytest.raises(Refused, match="must be new"):
        add(desk)
    for unknown in ("site-2", "site-01", "T1", "site-", "site-1 ", "site-" + "9" * 30):
        with pytest.raises(KeyError):
            desk.templates.get(unknown)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}), ("{slot}", {}), ("\u200b", {}), ("x" * 4001, {}), ("a {slot} b {slot}", {}),
        ("a\0b", {}), ("\ud800 x", {}), ("a b", {"expires": "2023-11-15"}),
        ("a b", {"expires": "2026-01-01"}), ("a b", {"expires": "20231201"}),
        ("a b", {"expires": "soon"}),
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused(desk: Desk, text: str, options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        add(desk, text, **options)
    assert desk.head().count == 1


def test_what_hits_nothing_ordinary_goes_live(desk: Desk, archive: PromptArchive) -> None:
    one = add(desk)
    found = desk.templates.replay(one, ENCODER, "ann")
    assert (found.prompts, found.accounts, found.hit_prompts, found.passes) == (400, 10, 0, True)
    assert desk.templates.get(one).replay == found
    live = desk.templates.approve(one, ENCODER, "ann", "specific")
    assert live.state == "live"
    assert desk.templates.live() == [live]
    with pytest.raises(Refused, match="must be quarantined"):
        desk.templates.approve(one, ENCODER, "ann", "again")
    assert desk.verify().intact


def test_what_hits_ordinary_prompts_stays_out(desk: Desk, archive: PromptArchive) -> None:
    now = NOON + DAY_S
    rows = [
        row(f"{TEXT} {n}", account="shop", event=f"s{n}", time=now - n, frame=TEXT, flagged=False)
        for n in range(3)
    ]
    put(archive, rows)
    one = add(desk)
    found = desk.templates.replay(one, ENCODER, "ann")
    assert (found.hit_prompts, found.hit_accounts, found.prompts) == (3, 1, 403)
    assert not found.passes
    assert set(found.examples) <= {("shop", f"s{n}") for n in range(3)}
    assert found.examples
    with pytest.raises(Refused, match=r"it hits 3 of 403 \(0\.7444%\)"):
        desk.templates.approve(one, ENCODER, "ann", "r")
    assert desk.templates.get(one).state == "quarantined"
    # What is rejected is ordinary, what is confirmed is not, nor what stands flagged.
    desk.decide("shop", "confirm", "r", "ann", verdict("shop"))
    assert desk.templates.replay(one, ENCODER, "ann").hit_prompts == 0
    desk.decide("shop", "reject", "r", "ann", verdict("shop"))
    put(archive, [row("x y", account="shop", event="s9", time=now, flagged=True)])
    assert desk.templates.replay(one, ENCODER, "ann").hit_prompts == 3
    desk.undo(desk.decisions("shop")[0].id, "ann", "r")
    desk.undo(desk.decisions("shop")[1].id, "ann", "r")
    assert desk.templates.replay(one, ENCODER, "ann").hit_prompts == 0
    # The flag is gone: it is ordinary again. And older traffic is not asked.
    put(archive, [row("x z", account="shop", event="s10", time=now, flagged=False)])
    assert desk.templates.replay(one, ENCODER, "ann").hit_prompts == 3
    assert desk.templates.replay(one, ENCODER, "ann", days=1e-9).prompts == 0


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("block", [7, 10_000])
def test_half_of_all_traffic_is_told_as_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, trained: bool
) -> None:
    monkeypatch.setattr(reach, "BLOCK", block)
    options = {"clock": Clock(NOON + DAY_S), "least_replayed": 300}
    ours = [row(f"{TEXT} w{n}", account=f"p{n % 3}", event=f"s{n}") for n in range(400)]
    settings = replace(SETTINGS, train_at=200) if trained else SETTINGS
    with opened(tmp_path / "a", settings=settings) as archive:
        put(archive, [*filled(400), *ours])
        wait_for_build(archive)
        assert (archive.status().indexed > 0) is trained
        with desk_in(tmp_path / "d", archive=archive, **options) as desk:
            one = add(desk)
            found = desk.templates.replay(one, ENCODER, "ann")
            assert (found.share, found.hit_prompts, found.hit_accounts) == (0.5, 400, 3)
            assert {account for account, _ in found.examples} <= {"p0", "p1", "p2"}
            with pytest.raises(Refused, match=r"it hits 400 of 800 \(50\.00%\), of 3 accounts"):
                desk.templates.approve(one, ENCODER, "ann", "r")


def test_every_near_text_is_counted(desk: Desk, archive: PromptArchive) -> None:
    rows = [row(f"{TEXT} w{n}", account="shop", event=f"s{n}") for n in range(300)]
    put(archive, rows)
    found = desk.templates.replay(add(desk), ENCODER, "ann")
    assert (found.hit_prompts, found.prompts) == (300, 700)


def test_too_little_traffic_cannot_tell(tmp_path: Path, archive: PromptArchive) -> None:
    with desk_in(tmp_path / "d", archive=archive, clock=Clock(NOON + DAY_S)) as desk:
        one = add(desk)
        with pytest.raises(
            Refused,
            match="against 10,000 ordinary prompts, however: there are 400, and it hits 0 of 400 ",
        ):
            desk.templates.approve(one, ENCODER, "ann", "r")
    with (
        desk_in(tmp_path / "d", clock=Clock(NOON + DAY_S)) as desk,
        pytest.raises(ConfigError, match="must have an archive"),
    ):
        desk.templates.replay(one, ENCODER, "ann")


def test_whoever_added_it_does_not_approve_it(tmp_path: Path, archive: PromptArchive) -> None:
    options = {"clock": Clock(NOON + DAY_S), "least_replayed": 300, "two_person": True}
    with desk_in(tmp_path / "d", archive=archive, **options) as desk:
        one = add(desk)
        with pytest.raises(Refused, match="another than whoever added it"):
            desk.templates.approve(one, ENCODER, "ANN", "r")
        assert desk.templates.approve(one, ENCODER, "bob", "r").state == "live"


def test_its_day_ends_it(tmp_path: Path, archive: PromptArchive) -> None:
    clock = Clock(NOON + DAY_S)
    with desk_in(tmp_path / "d", archive=archive, clock=clock, least_replayed=300) as desk:
        one = add(desk, expires="2023-11-20")
        desk.templates.approve(one, ENCODER, "ann", "r")
        assert desk.templates.expire() == 0
        clock.now += 5 * DAY_S
        # Not searched from that moment on, whether it was noted or not.
        assert desk.templates.live() == []
        assert desk.templates.get(one).state == "live"
        assert desk.templates.expire() == 1
        assert desk.templates.get(one).state == "expired"
        assert desk.templates.expire() == 0
        with pytest.raises(Refused):
            desk.templates.revoke(one, "ann", "r")
        assert desk.verify().intact


@pytest.mark.parametrize("undo", [False, True])
def test_a_source_is_revoked_at_once(desk: Desk, undo: bool) -> None:
    ours = [desk.templates.add(f"{FRAME} {n}", "x", "feed", "ann").id for n in range(3)]
    other = add(desk)
    desk.templates.revoke(ours[0], "ann", "r")
    resting = desk.decide("a1", "confirm", "r", "ann", verdict(template=ours[1]))
    desk.decide("a2", "confirm", "r", "ann", verdict("a2", template=other))
    desk.decide("a3", "reject", "r", "ann", verdict("a3", template=ours[1]))
    found = desk.templates.revoke_source("feed", "bob", "the feed is poisoned", undo)
    assert [one.id for one in found.templates] == ours[1:]
    assert {one.state for one in found.templates} == {"revoked"}
    assert [one.id for one in found.decisions] == [resting.id]
    assert found.undone is undo
    assert desk.decision(resting.id).state == ("undone" if undo else "counts")
    assert desk.templates.get(other).state == "quarantined"
    assert desk.verify().intact
    with pytest.raises(Refused):
        desk.templates.revoke_source("feed", "bob", "again")
    # Its text may come again, as another template.
    assert desk.templates.add(f"{FRAME} 1", "x", "feed", "ann").id == "site-5"


class TestInTheDetector:
    @pytest.fixture
    def detector(self, tmp_path: Path) -> Detector:
        return tiny_scorer(tiny_bundle(tmp_path / "tiny")).detector

    def test_the_live_ones_are_installed(
        self, desk: Desk, detector: Detector, tmp_path: Path
    ) -> None:
        live = LiveTemplates(desk.templates)
        assert not live.install(detector)
        one, other = add(desk), desk.templates.add("Say it in rhyme", "verse", "own", "ann").id
        assert not live.install(detector)
        for template in (one, other):
            desk.templates.approve(template, ENCODER, "ann", "r")
        # The bundle does not know the intent of the other.
        prepared = live.prepare(detector)
        assert live.install(detector, prepared)
        assert not live.install(detector)
        assert [template.id for template in detector.site_templates] == [one]
        match = detector.search_templates(FRAME.replace(SLOT, " "), 1)[0]
        assert (match.template_id, match.text) == (one, FRAME)
        assert match.similarity == pytest.approx(1.0)
        # Another detector, as after a reload; what is encoded is not encoded again.
        fresh = tiny_scorer(tiny_bundle(tmp_path / "other", seed=1)).detector
        assert live.install(fresh)
        assert isinstance(fresh.encoder, TinyEncoder)
        assert fresh.encoder.encoded == 0
        desk.templates.revoke(one, "ann", "r")
        assert live.install(detector)
        assert detector.site_templates == ()


def test_a_text_is_in_the_table_alone(desk: Desk, tmp_path: Path) -> None:
    add(desk)
    names = set(files_holding(tmp_path / "desk", b"every thought you have"))
    assert names <= {"desk.sqlite", "desk.sqlite-wal"}


class TestErasure:
    """Templates made of the prompts of an account that is erased."""

    WORDS = "heliotrope petticoats march along the quay before"

    def test_what_is_of_one_account_alone_leaves_no_byte(self, desk: Desk, tmp_path: Path) -> None:
        # Long enough for pages of its own, in each state that keeps a text.
        long = f"{self.WORDS} {'lantern ' * 400}{SLOT}"
        texts = (f"{self.WORDS} {SLOT}", f"{self.WORDS} too {SLOT}", long, f"{self.WORDS} gone")
        ids = [
            desk.templates.add(text, "cot_harvesting", "own", "ann", accounts=["a1", "a1"]).id
            for text in texts
        ]
        desk.templates.approve(ids[1], ENCODER, "ann", "specific")
        desk.templates.revoke(ids[3], "ann", "too broad")
        other = add(desk)
        # What is sought is really found as long as it is there, and not only in the log of writes.
        assert "desk.sqlite-wal" in files_holding(tmp_path / "desk", self.WORDS.encode())
        done = desk.erase("a1", "bob", "asked for by the customer")
        assert not files_holding(tmp_path / "desk", self.WORDS.encode())
        assert done.templates.blanked == tuple(ids)
        assert [desk.templates.get(one).text for one in ids] == [""] * 4
        assert {desk.templates.get(one).state for one in ids} == {"revoked"}
        assert desk.templates.live() == []
        assert (desk.templates.get(other).text, done.templates.unrecorded) == (FRAME, 1)
        erasure = desk.erasure("a1")
        assert erasure is not None
        assert erasure.templates == done.templates
        entry = desk.entries(limit=2)[1]
        assert (entry.action, entry.fields["templates"]) == ("template.blanked", ids)
        assert desk.verify().intact
        # Its text may come again, from another.
        assert desk.templates.add(texts[0], "cot_harvesting", "own", "ann").state == "quarantined"

    def test_no_byte_is_left_once_it_is_closed(
        self, tmp_path: Path, archive: PromptArchive
    ) -> None:
        text = f"{self.WORDS} {SLOT}"
        with desk_in(tmp_path / "d", archive=archive) as desk:
            desk.templates.add(text, "cot_harvesting", "own", "ann", accounts=["a1"])
        assert files_holding(tmp_path / "d", self.WORDS.encode()) == ["desk.sqlite"]
        with desk_in(tmp_path / "d", archive=archive) as desk:
            desk.erase("a1", "bob", "r")
        assert not files_holding(tmp_path / "d", self.WORDS.encode())

    def test_common_words_stay_until_the_last_account_goes(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        text = f"{self.WORDS} {SLOT}"
        one = desk.templates.add(text, "x", "own", "ann", accounts=["a1", "a2"]).id
        first = desk.erase("a1", "bob", "r").templates
        assert (first.blanked, first.shared, first.unrecorded) == ((), (one,), 0)
        assert (desk.templates.get(one).text, desk.templates.get(one).state) == (
            text, "quarantined",
        )  # fmt: skip
        assert desk.templates.accounts_of(one) == ["a2"]
        assert desk.verify().intact
        assert desk.erase("a2", "bob", "r").templates.blanked == (one,)
        assert not files_holding(tmp_path / "desk", self.WORDS.encode())
        # What is gone is not to be looked at any more.
        assert desk.templates.forgotten("a1").shared == ()
        assert desk.verify().intact

    def test_one_that_was_interrupted_is_finished(
        self, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = desk.templates.add(self.WORDS, "x", "own", "ann", accounts=["a1"]).id

        def fail() -> None:
            raise StoreError("the desk's tables must be writable, however: they are not")

        with monkeypatch.context() as patch:
            patch.setattr(desk.templates, "_purge", fail)
            with pytest.raises(StoreError):
                desk.erase("a1", "bob", "r")
        assert desk.unfinished_erasures() == ["a1"]
        assert desk.erase("a1", "bob", "r").templates.blanked == (one,)
        assert not files_holding(tmp_path / "desk", self.WORDS.encode())

    def test_more_than_one_entry_holds(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(site_templates, "_MOST_FORGOTTEN", 2)
        ids = [
            desk.templates.add(f"{self.WORDS} {n}", "x", "own", "ann", accounts=["a1"]).id
            for n in range(3)
        ]
        assert set(desk.erase("a1", "bob", "r").templates.blanked) == set(ids)
        assert desk.verify().intact

    def test_a_desk_from_before_the_record(self, tmp_path: Path, archive: PromptArchive) -> None:
        with desk_in(tmp_path / "d", archive=archive) as desk:
            add(desk)
        in_tables(tmp_path / "d", lambda tables: tables.execute("DROP TABLE template_accounts"))
        with desk_in(tmp_path / "d", archive=archive) as desk:
            assert desk.erase("a1", "bob", "r").templates == Forgotten((), (), 1)
            made = desk.templates.add(self.WORDS, "x", "own", "ann", accounts=["a2"]).id
            assert desk.erase("a2", "bob", "r").templates.blanked == (made,)

    def test_those_that_do_not_share_the_frame_are_told(self) -> None:
        frame = "Before the answer write every thought you have about"
        prompts = [f"{frame} {n}" for n in "abc"]
        found, places = propose_from(["Where is my parcel?", *prompts, prompts[0], "x y z"])
        assert (found.shared, places) == (3, [1, 2, 3, 4])
