"""Hot reload: a bundle is taken over whole or not at all, and the folder it is found in."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillwatch.data.errors import BundleError, ConfigError
from stillwatch.model.bundle import MANIFEST, Bundle, load_bundle
from stillwatch.model.detector import Detector
from stillwatch.serving.reload import BundleFolder, Change, Reloader, Watch
from stillwatch.serving.stores.memory import MemoryStore
from tests.spoil import WAYS, reseal, spoil
from tests.support import TinyEncoder, make_events, tiny_bundle, tiny_scorer

CORRUPTED = 300


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("first") / "a", seed=0)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("second") / "b", seed=1)


def test_a_good_bundle_is_taken_over(first: Bundle, second: Bundle) -> None:
    scorer = tiny_scorer(first)
    reloader = Reloader(scorer)
    detector = reloader.load(second.path)
    assert scorer.bundle_id == first.id, "loading alone changes nothing"
    assert reloader.take_over(detector) == Change(second.id, first.id)
    assert scorer.bundle_id == second.id
    assert reloader.refusal is None
    events = make_events()
    expected = tiny_scorer(second).update(events)
    assert [v.risk for v in scorer.update(events)] == [v.risk for v in expected]


def test_the_same_bundle_leaves_the_detector_with_what_it_knows(first: Bundle) -> None:
    scorer = tiny_scorer(first)
    before = scorer.detector
    reloader = Reloader(scorer)
    assert reloader.take_over(reloader.load(first.path)) == Change(first.id, first.id)
    assert scorer.detector is before


def test_corrupted_bundles_are_all_refused(first: Bundle, second: Bundle, tmp_path: Path) -> None:
    scorer, untouched = tiny_scorer(first), tiny_scorer(first)
    serving = scorer.detector
    reloader = Reloader(scorer)
    events = make_events(each=CORRUPTED // 5)
    ways: Counter[str] = Counter()
    for number in range(CORRUPTED):
        folder = Path(shutil.copytree(second.path, tmp_path / f"bundle-{number}"))
        way = spoil(folder, number)
        ways[way] += 1
        reason, refusal = "", None
        try:
            reloader.load(folder)
        except BundleError as error:
            reason = str(error)
            refusal = reloader.refusal
        assert refusal is not None, (number, way)
        assert refusal[:2] == (folder.name, reason)
        assert reason.isprintable()
        shutil.rmtree(folder)
        assert scorer.detector is serving
        (one,) = scorer.update([events[number]])
        (other,) = untouched.update([events[number]])
        assert one == other
    assert len(ways) == len(WAYS)


def test_what_is_right_again_is_accepted(first: Bundle, second: Bundle, tmp_path: Path) -> None:
    """Or the test of corrupted bundles would show nothing."""
    folder = Path(shutil.copytree(second.path, tmp_path / "bundle"))
    reseal(folder)
    assert Reloader(tiny_scorer(first)).load(folder).bundle_id == second.id
    thresholds = second.manifest.thresholds.model_dump()
    reseal(folder, thresholds={**thresholds, "enter": 0.75})
    changed = Reloader(tiny_scorer(first)).load(folder)
    assert changed.bundle_id != second.id
    assert changed.bundle.manifest.thresholds.enter == 0.75


def test_files_of_another_bundle_are_refused(first: Bundle, second: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(second.path, tmp_path / "bundle"))
    shutil.copy(first.path / "classifier.onnx", folder / "classifier.onnx")
    reseal(folder)
    with pytest.raises(BundleError, match="golden risks within"):
        Reloader(tiny_scorer(first)).load(folder)


def test_other_intents_are_refused(first: Bundle, second: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(second.path, tmp_path / "bundle"))
    reseal(folder, intents=[*second.manifest.intents[:2], "another"])
    with pytest.raises(BundleError, match=r"must keep the 3 intents .* another; start the service"):
        Reloader(tiny_scorer(first)).load(folder)


def test_whatever_fails_is_a_refusal_without_its_words(
    first: Bundle, second: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = tiny_scorer(first)
    for fault in (MemoryError("canary"), KeyError("canary"), RecursionError("canary")):
        with monkeypatch.context() as broken:

            def fail(*_: object, fault: Exception = fault) -> None:
                raise fault

            broken.setattr("stillwatch.serving.reload.check_golden_risks", fail)
            with pytest.raises(BundleError, match=type(fault).__name__) as refusal:
                Reloader(scorer).load(second.path)
            assert "canary" not in str(refusal.value)
    assert scorer.bundle_id == first.id


def test_a_reason_is_one_short_line(first: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(first.path, tmp_path / "bundle"))
    raw = os.fsencode(folder) + b"/\xff\x1b[31m" + b"x" * 200
    os.close(os.open(raw, os.O_CREAT))
    with pytest.raises(BundleError, match="is not listed") as refusal:
        Reloader(tiny_scorer(first)).load(folder)
    reason = str(refusal.value)
    assert reason.isprintable()
    assert len(reason) <= 400
    assert str(tmp_path) not in reason
    reason.encode()


def test_a_loaded_encoder_is_used_again(first: Bundle, second: Bundle) -> None:
    scorer = tiny_scorer(first)
    assert Reloader(scorer).load(second.path).encoder is scorer.encoder


def test_another_encoder_is_opened_if_the_bundle_carries_it(
    first: Bundle, second: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(second.path, tmp_path / "bundle"))
    fields = second.manifest.encoder.model_dump()
    reseal(folder, encoder={**fields, "revision": "1"})
    reloader = Reloader(tiny_scorer(first), threads=3)
    with pytest.raises(BundleError, match="another encoder must carry it"):
        reloader.load(folder)
    # An ONNX file of nothing: no encoder that could be opened.
    (folder / "encoder.onnx").write_bytes(b"")
    (folder / "tokenizer.json").write_bytes(b"{}")
    files = {**second.manifest.files, "encoder.onnx": "", "tokenizer.json": ""}
    reseal(folder, files=files)
    with pytest.raises(BundleError, match=r"encoder\.onnx must be a model for onnxruntime"):
        reloader.load(folder)
    opened: list[tuple[Path, int]] = []

    def load(path: Path, threads: int) -> Detector:
        opened.append((path, threads))
        return Detector(load_bundle(path), TinyEncoder())

    monkeypatch.setattr(Detector, "load", load)
    detector = reloader.load(folder)
    assert opened == [(folder, 3)]
    assert detector.encoder is not reloader.scorer.detector.encoder
    # Once it serves, its encoder is the loaded one.
    reloader.take_over(detector)
    assert reloader.load(folder).encoder is detector.encoder


def test_flags_and_counts_outlive_a_swap_and_a_swap_back(tmp_path: Path) -> None:
    events = make_events(accounts=4, each=30)
    sure = tiny_bundle(tmp_path / "sure", offset=6.0, seed=0)
    calm = tiny_bundle(tmp_path / "calm", offset=-6.0, seed=1)
    scorer = tiny_scorer(sure, MemoryStore(kept=64))
    reloader = Reloader(scorer)
    before = scorer.update(events[:40])
    assert all(verdict.flagged for verdict in before)
    reloader.take_over(reloader.load(calm.path))
    (again,) = scorer.update([events[0]])
    assert again == scorer.verdict("a0"), "what was counted before changes nothing"
    assert again.bundle == sure.id
    after = scorer.update(events[40:80])
    own = tiny_scorer(calm)
    own.update(events[:40])
    for verdict, expected in zip(after, own.update(events[40:80]), strict=True):
        assert verdict.events == expected.events
        assert verdict.bundle == calm.id
        assert verdict.threshold == calm.manifest.thresholds.enter
        assert verdict.risk == pytest.approx(expected.risk, abs=1e-5)
        assert verdict.flagged_after == 1
        # The new bundle has read ten to twenty events of it: too few to take away the flag.
        assert verdict.flagged
    reloader.take_over(reloader.load(sure.path))
    own = tiny_scorer(sure)
    own.update(events[:80])
    for verdict, expected in zip(scorer.update(events[80:]), own.update(events[80:]), strict=True):
        assert (verdict.events, verdict.bundle) == (expected.events, sure.id)
        assert verdict.risk == pytest.approx(expected.risk, abs=1e-5)
        assert verdict.flagged
    assert scorer.replayed == 8


def place(bundle: Bundle, folder: Path, name: str, written: int) -> Path:
    """A copy whose manifest was written at `written`, epoch seconds."""
    copy = Path(shutil.copytree(bundle.path, folder / f".{name}"))
    os.utime(copy / MANIFEST, (written, written))
    return copy.rename(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


def test_the_newest_is_tried_first_and_once(first: Bundle, second: Bundle, folder: Path) -> None:
    watch = Watch(BundleFolder(folder))
    assert watch.next(settled=False) is None
    old = place(first, folder, "z-old", 100)
    new = place(second, folder, "a-new", 200)
    candidate = watch.next(settled=False)
    assert candidate is not None
    assert candidate.path == new
    watch.taken(candidate)
    assert watch.next(settled=False) is None, "an older one is no news"
    shutil.rmtree(new)
    candidate = watch.next(settled=False)
    assert candidate is not None
    assert candidate.path == old, "the newest that is left"


def test_a_refused_one_is_tried_again_when_it_has_changed(
    first: Bundle, second: Bundle, folder: Path
) -> None:
    watch = Watch(BundleFolder(folder))
    good, bad = place(first, folder, "good", 100), place(second, folder, "bad", 200)
    candidate = watch.next(settled=False)
    assert candidate is not None
    watch.refused(candidate)
    candidate = watch.next(settled=False)
    assert candidate is not None
    assert candidate.path == good, "at the start the newest that is good serves"
    watch.taken(candidate)
    for _ in range(3):
        assert watch.next(settled=False) is None
    (bad / "README.md").write_text("another card")
    candidate = watch.next(settled=False)
    assert candidate is not None
    assert candidate.path == bad


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "README.md").write_text("x"),
        lambda path: (path / "README.md").chmod(0o600),
        lambda path: (path / "extra").touch(),
        lambda path: (path / "README.md").unlink(),
        lambda path: os.utime(path / MANIFEST, (5, 5)),
    ],
)
def test_any_change_is_seen(first: Bundle, folder: Path, change: Callable[[Path], object]) -> None:
    watched = BundleFolder(folder)
    path = place(first, folder, "a", 100)
    before = watched.candidates()
    assert watched.candidates() == before
    change(path)
    assert watched.candidates() != before


def test_what_is_still_on_its_way_is_left_for_the_next_look(first: Bundle, folder: Path) -> None:
    watch = Watch(BundleFolder(folder))
    path = place(first, folder, "a", 100)
    (path / "heads.safetensors").write_bytes(b"half")
    assert watch.next() is None
    shutil.copy(first.path / "heads.safetensors", path)
    assert watch.next() is None
    candidate = watch.next()
    assert candidate is not None
    assert candidate.path == path


def test_hidden_folders_links_and_others_are_no_candidates(first: Bundle, folder: Path) -> None:
    place(first, folder, ".being-written", 100)
    (folder / "linked").symlink_to(first.path)
    (folder / "empty").mkdir()
    (folder / MANIFEST).write_text("{}")
    assert BundleFolder(folder).candidates() == []
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        BundleFolder(folder).candidates()


def test_no_path_leads_out_of_the_folder(first: Bundle, folder: Path) -> None:
    inside = place(first, folder, "a", 100)
    place(first, folder.parent, "outside", 100)
    (folder / "out").symlink_to(folder.parent / "outside")
    (folder / "in").symlink_to("a")
    (folder / "ring").symlink_to("ring")
    (folder / ".hidden").mkdir()
    found = BundleFolder(folder)
    for name in ("a", "in", "./a", "a/", str(inside), "a/../a"):
        assert found.find(name) == inside
    messages = set()
    for name in (
        "../outside", "out", "a/../../outside", str(folder.parent / "outside"), "/etc", "", ".",
        "..", "nothing", "ring", ".hidden", "a/README.md", "a\0", "x" * 5000, "\ud800", "/" * 9,
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="must be a folder below bundle_folder") as error:
            found.find(name)
        messages.add(str(error.value))
    assert len(messages) == 1, "what lies outside is not told"


def test_a_detector_that_gives_no_numbers_is_refused(
    first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    class Broken(TinyEncoder):
        broken = True

        def encode(self, texts):  # type: ignore[no-untyped-def]
            found = super().encode(texts)
            return [replace(one, windows=one.windows * float("nan")) for one in found]

    scorer = tiny_scorer(first)
    scorer.detector.encoder = Broken()
    with pytest.raises(BundleError, match="must load whole, however: it ends in"):
        Reloader(scorer).load(second.path)
