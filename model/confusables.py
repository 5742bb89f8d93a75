"""Letters of other scripts that look like Latin ones, folded where they pretend to be Latin.

Genuine Russian, Greek, Armenian or Cherokee stays as it is: a word is folded only if it mixes
scripts with Latin letters, or consists of look-alikes alone and stands amid Latin words. Each rule
rests on letters that folding does not change, so that folding twice is folding once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Letters that nobody tells from the Latin ones: a word of these alone may be a disguise.
_STRICT = dict(zip(
    "аеорсухіјѕһԁԛԝѵӏүԍАВЕКМНОРСТУХІЈЅԌԚԜѴӀҮ" "οιΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdqwvlygABEKMHOPCTYXIJSGQWVIY" "oiABEZHIKMNOPTYX", strict=True,
))  # fmt: skip
# Less alike; single letters of the Greek ones are also signs of mathematics.
_SIGNS = dict(zip(
    "ναρυκχτεγωηςϳϺ" "օոսհզցյՏՕԼՍ" "ᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᏚᎢᏙᎳᏃᎡ",
    "vapukxteywncjM" "onuhqgjSOLU" "ABCDEGHJKLMPSTVWZR", strict=True,
))  # fmt: skip
# These pass for Latin only among Latin letters.
_LOOSE = dict(zip("кмтнвпгибёїάόέίύ", "kmthbnrubëïáóéíú", strict=True))

_FOLD = str.maketrans({**_STRICT, **_SIGNS, **_LOOSE})
_LOOKALIKE = re.compile(f"[{''.join(map(chr, _FOLD))}]")

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff"
_OTHER = (
    "\u0370-\u03ff\u1f00-\u1fff\u0400-\u0482\u048a-\u052f\u1c80-\u1c8f\ua640-\ua66e\ua680-\ua69d"
    "\u0531-\u0587\u13a0-\u13ff\uab70-\uabbf"
)
_MARKS = "\u0300-\u036f\u0483-\u0487"
_ANY_LATIN = re.compile(f"[{_LATIN}]")
_KINDS = (
    ("s", re.compile(f"[{''.join(_STRICT)}]")),
    ("g", re.compile(f"[{''.join(_SIGNS)}]")),
    ("e", re.compile(f"[{''.join(_LOOSE)}]")),
    ("L", _ANY_LATIN),
    ("U", re.compile(f"[{_OTHER}]")),
    ("m", re.compile(f"[{_MARKS}]")),
)
_KIND_WORD = re.compile("[LUsgem]+")

_MAX_OTHER_SHARE = 8
"""Look-alike words are folded where Latin words are at least so many times the foreign ones."""
_MIN_MIXED = 3
"""Mixed words that show a text to be disguised; a Greek word quoted in English is not."""


class _LetterKinds(dict[int, str]):
    """Code point -> a letter for its kind, worked out when first seen; a space for all else."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        kind = next((name for name, members in _KINDS if members.match(char)), " ")
        self[point] = kind
        return kind


_letter_kinds = _LetterKinds()


def fold_confusables(text: str) -> str:
    """Fold look-alikes to Latin letters where they stand in for them. The text has to be NFKC;
    the result has the same length and may need composing again."""
    if not _LOOKALIKE.search(text) or not _ANY_LATIN.search(text):
        return text
    kinds = text.translate(_letter_kinds)
    seen: dict[str, str] = {}
    spans = []
    roles = []
    for found in _KIND_WORD.finditer(kinds):
        kind = found.group()
        role = seen.get(kind)
        if role is None:
            role = seen[kind] = _role(kind)
        if role:
            spans.append(found.span())
            roles.append(role)
    fold = [number for number, role in enumerate(roles) if role == "mixed"]
    signs = "lookalike" if len(fold) >= _MIN_MIXED else "other"
    roles = [signs if role == "signs" else role for role in roles]
    fold.extend(_amid_latin(roles))
    if not fold:
        return text
    pieces = []
    done = 0
    for number in sorted(fold):
        start, stop = spans[number]
        pieces += [text[done:start], text[start:stop].translate(_FOLD)]
        done = stop
    return "".join([*pieces, text[done:]])


def _role(kinds: str) -> str:
    """What a word is, from the kinds of its letters: `mixed` (to be folded), `latin`, `lookalike`
    (to be folded amid Latin), `signs` (the same if the text is disguised), `other`, or nothing if
    it has no letters."""
    latin, strict, signs, loose, other = (kinds.count(kind) for kind in "LsgeU")
    letters = latin + strict + signs + loose + other
    if not letters:
        return ""
    if latin == letters:
        return "latin"
    # "μm" and "αx" are mathematics.
    only_signs = signs > 0 and not strict and not loose
    if latin:
        disguised = latin > 4 * other and letters > other + latin
        return "mixed" if disguised and not (only_signs and letters < 3) else "other"
    if strict == letters:
        return "lookalike"
    return "signs" if strict + signs == letters and letters >= 3 else "other"


def _amid_latin(roles: list[str]) -> Iterator[int]:
    """Positions of look-alike words whose nearest other words, before and after, are Latin, in a
    text with few words of another script ("как поднять Docker с Python" keeps its Cyrillic)."""
    others = roles.count("other")
    latin = roles.count("latin") + roles.count("mixed")
    if not latin or others * _MAX_OTHER_SHARE > latin:
        return
    run: list[int] = []
    after_latin = True
    for number, role in enumerate(roles):
        if role == "lookalike":
            run.append(number)
            continue
        if after_latin and role != "other":
            yield from run
        run.clear()
        after_latin = role != "other"
    if after_latin:
        yield from run
