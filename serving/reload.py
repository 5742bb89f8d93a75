"""Hot reload: another bundle in the place of the one that serves. Knows nothing of HTTP.

A candidate is loaded and checked whole beside the detector that serves; only then it is handed
over, by the thread that scores, between two calls. One that is refused changes nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from stillwatch.data.errors import BundleError, ConfigError, StillwatchError
from stillwatch.model.bundle import MANIFEST, Bundle, Layout, load_bundle
from stillwatch.model.detector import Detector
from stillwatch.model.golden import check_golden_risks
from stillwatch.serving.verdict import clip, visible

REASON_CHARS = 400
"""Longest reason that is kept of a refusal: the names in it come from the bundle."""


class HoldsDetector(Protocol):
    """What is reloaded: a `stillwatch.serving.scorer.Scorer`."""

    detector: Detector


class Change(NamedTuple):
    """Ids of the bundle that serves now and of the one before it; the same if it serves on."""

    bundle: str
    previous: str


class Refusal(NamedTuple):
    """A bundle that was not taken over: its folder's name, one sentence, epoch seconds."""

    folder: str
    reason: str
    at: float


class Reloader:
    """Loads candidates for a scorer. One `load` at a time, in any thread but the scorer's."""

    def __init__(self, scorer: HoldsDetector, threads: int = 1) -> None:
        """`threads` are those of an encoder that has to be opened."""
        self.scorer = scorer
        self.loaded_at = time.time()
        """When the bundle that serves was taken over, epoch seconds."""
        self.refusal: Refusal | None = None
        """The last one."""
        self._threads = threads

    def load(self, path: Path) -> Detector:
        """A detector of the bundle in `path`, checked whole. Raises BundleError with the reason,
        whatever it is, and keeps it."""
        try:
            return self._load(path)
        except StillwatchError as error:
            reason = str(error).replace(str(path), path.name)
        except Exception as error:
            # Its words may hold anything.
            reason = (
                f"a bundle must load whole, however: it ends in {type(error).__name__}; "
                "take the bundle from its source again"
            )
        reason = clip(visible(reason), REASON_CHARS)
        self.refusal = Refusal(clip(visible(path.name), REASON_CHARS), reason, time.time())
        raise BundleError(reason)

    def take_over(self, detector: Detector) -> Change:
        """Put a loaded detector in place. Only the thread that scores may call it."""
        previous = self.scorer.detector.bundle_id
        # The same bundle would only lose what the present one has learnt by heart.
        if detector.bundle_id != previous:
            self.scorer.detector = detector
            self.loaded_at = time.time()
        return Change(detector.bundle_id, previous)

    def _load(self, path: Path) -> Detector:
        present = self.scorer.detector
        bundle = load_bundle(path)
        manifest = bundle.manifest
        if tuple(manifest.intents) != present.intents:
            # Callers read the probabilities of intents by their places.
            raise BundleError(
                f"a bundle must keep the {len(present.intents)} intents to be taken over while "
                f"serving, however: it has {', '.join(manifest.intents) or 'none'}; start the "
                "service anew with it"
            )
        if _has_encoder_of(bundle, present.bundle):
            detector = Detector(bundle, present.encoder)
        elif bundle.has_encoder:
            detector = Detector.load(path, self._threads)
        else:
            # One that is not cached would be exported here, which takes minutes and torch.
            raise BundleError(
                "a bundle with another encoder must carry it to be taken over while serving, "
                "however: it does not; complete it with `stillwatch export`, or start the service "
                "anew with it"
            )
        check_golden_risks(detector)
        return detector


def _has_encoder_of(bundle: Bundle, present: Bundle) -> bool:
    """Whether the encoder that is loaded is the one that a bundle names."""
    files, own = bundle.manifest.files, present.manifest.files
    carried = [name for name in Layout.ENCODER if name in files]
    return bundle.manifest.encoder == present.manifest.encoder and all(
        files[name] == own.get(name) for name in carried
    )


class Candidate(NamedTuple):
    """A bundle's folder, and what changes with anything in it."""

    path: Path
    state: tuple[tuple[str | int, ...], ...]


class BundleFolder:
    """A folder that holds bundles, each a folder of its own that was renamed into place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path:
        """The folder of a path from here; ConfigError, the same for all, if it leads out of here,
        also by a link, is hidden or is none."""
        try:
            root = self.folder.resolve(strict=True)
            path = (root / name).resolve(strict=True)
            parts = path.relative_to(root).parts
            if parts and path.is_dir() and not any(part.startswith(".") for part in parts):
                return path
        # Outside, no file, no path at all; a ring of links is a RuntimeError.
        except (OSError, ValueError, RuntimeError):
            pass
        raise ConfigError(
            "the bundle must be a folder below bundle_folder, however: it is not; name one by its "
            "path from there"
        )

    def candidates(self) -> list[Candidate]:
        """Folders with a manifest, hidden ones and links left out, that with the newest manifest
        first. OSError if the folder cannot be read."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                    continue
                if state := _state(entry.path):
                    found.append((state, Candidate(self.folder / entry.name, state)))
        found.sort(key=lambda item: (_written(item[0]), item[1].path.name), reverse=True)
        return [candidate for _, candidate in found]


def _state(folder: str) -> tuple[tuple[str | int, ...], ...]:
    """Of each file its name, inode, size and times; nothing if there is no manifest, or if the
    folder is going."""
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    except OSError:
        return ()
    state = tuple(
        (name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for name, status in files
    )
    return state if any(name == MANIFEST for name, *_ in state) else ()


def _written(state: tuple[tuple[str | int, ...], ...]) -> int:
    """When the manifest was written, epoch nanoseconds."""
    return next(int(mtime) for name, _, _, mtime, _ in state if name == MANIFEST)


class Watch:
    """Which bundle of a folder to try next: the newest that was not refused, unless it is the
    last that was taken. What was refused is tried again when it has changed."""

    def __init__(self, folder: BundleFolder) -> None:
        self.folder = folder
        self._taken: Candidate | None = None
        self._refused: set[Candidate] = set()
        self._before: frozenset[Candidate] = frozenset()

    def next(self, settled: bool = True) -> Candidate | None:
        """Look at the folder. With `settled`, one that has changed since the last look is left for
        the next: it may be on its way still. OSError if the folder cannot be read."""
        found = self.folder.candidates()
        before, self._before = self._before, frozenset(found)
        self._refused &= self._before
        newest = next((one for one in found if one not in self._refused), None)
        if newest is None or newest == self._taken or (settled and newest not in before):
            return None
        return newest

    def taken(self, candidate: Candidate) -> None:
        """It serves."""
        self._taken = candidate

    def refused(self, candidate: Candidate) -> None:
        """It does not."""
        self._refused.add(candidate)
