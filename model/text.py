"""Text as every part of a detector reads it: normalised, in words, by script, and decoded.

`normalise` is the one function for training, export and serving. It undoes what makes the same
words look different to an encoder: invisible characters, look-alikes, fancy letters, stacked marks.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote_to_bytes

from stillwatch.model.confusables import fold_confusables

MAX_MARKS = 2
SCRIPT_SAMPLE_CHARS = 512
MIN_ENCODED_CHARS = 24
MAX_DECODING_DEPTH = 2


def _ranges(points: list[int]) -> str:
    """Ascending code points as the inside of a character class."""
    spans: list[list[int]] = []
    for point in points:
        if spans and spans[-1][1] == point - 1:
            spans[-1][1] = point
        else:
            spans.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


# Signs that Unicode counts as format characters although they are seen.
_VISIBLE_FORMAT = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
# Ignorable characters that are not format characters: joiners, fillers, variation selectors.
_IGNORABLE = {
    0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0,
    *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xD800, 0xE000),
    *range(0xE0000, 0xE1000),
}  # fmt: skip
_KEPT_CONTROLS = {0x09, 0x0A}
# Past this plane there are no marks, and no format characters but the tags.
_SCANNED = 0x1F000
_CATEGORIES = [unicodedata.category(chr(point)) for point in range(_SCANNED)]
_INVISIBLE_POINTS = sorted(
    _IGNORABLE
    | {
        point
        for point, category in enumerate(_CATEGORIES)
        if category in ("Cf", "Cc") and point not in _VISIBLE_FORMAT | _KEPT_CONTROLS
    }
)
_INVISIBLE = re.compile(f"[{_ranges(_INVISIBLE_POINTS)}]+")
_ASCII_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]+")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")

_COMBINING = _ranges([point for point in range(_SCANNED) if unicodedata.combining(chr(point))])
# Sorting a run of marks canonically takes the square of its length; no script needs this many.
_MARK_FLOOD = re.compile(f"([{_COMBINING}]{{30}})[{_COMBINING}]+")
# Marks of no script of its own. Those of Hebrew, Arabic, Devanagari, Thai… have other blocks.
_COMMON_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
_MARK_STACK = re.compile(f"([{_COMMON_MARKS}]{{{MAX_MARKS}}})[{_COMMON_MARKS}]+")
_MARK = re.compile(f"[{_COMMON_MARKS}]")
_MIN_STREWN, _MIN_STREWN_SHARE = 8, 0.08
# A dozen signs and more with blanks between all of them, few between letters, more between words.
_SPACED = re.compile(r"(?<!\S)\S(?:[ \t]{1,5}\S(?!\S)){11,}+")
_WIDE_BLANKS = re.compile(r"[ \t]{2,}")
_MIN_SPACED_LETTERS = 0.75
# Strokes through letters; no spelling uses them uncomposed.
_OVERLAYS = re.compile("[\u0334-\u0338]+")
_WHITE_ON_BLACK = re.compile("[\U0001f150-\U0001f169\U0001f170-\U0001f189]")

# A few tags within a word only break it; so many together, whatever else that is not seen stands
# between them, are words of their own.
_TAGGED = {0xE0000 + code: code for code in range(0x20, 0x7F)}
_TAG = f"[{_ranges(list(_TAGGED))}]"
_UNSEEN = _ranges([point for point in _INVISIBLE_POINTS if point not in _TAGGED]) + "\\s\u2800"
_TAG_WORDS = re.compile(f"{_TAG}(?:[{_UNSEEN}]*+{_TAG}){{3,}}")
# The only emoji that are spelt in tags: the flags of England, Scotland and Wales.
_FLAGS = [
    "".join(chr(0xE0000 + ord(char)) for char in name) for name in ("gbeng", "gbsct", "gbwls")
]
_TAG_FLAGS = re.compile(f"(?<=\U0001f3f4)(?:{'|'.join(_FLAGS)})\U000e007f")

_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_BREAKS = re.compile(r" \n[ \n]*|\n[ \n]+")


def normalise(text: str) -> str:
    """The text without disguise: NFKC, no invisible characters, look-alikes folded to Latin
    amid Latin, at most MAX_MARKS stacked marks, whitespace runs as one space or one newline.
    Words written in tag characters, which nobody sees and models read, are written out in their
    place; letters that stand apart become words again; a text full of marks that belong to no
    spelling loses all of them.

    Idempotent, and linear in the length. Never raises, whatever the string holds.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _ASCII_CONTROLS.sub("", text) if text.isascii() else _undisguise(text)
    text = _SPACED.sub(_closed_up, text)
    return _BREAKS.sub("\n", _BLANKS.sub(" ", text)).strip()


def _undisguise(text: str) -> str:
    text = _TAG_WORDS.sub(_written_out, _TAG_FLAGS.sub("", text))
    text = _INVISIBLE.sub("", text).replace("\u2800", " ")
    text = _WHITE_ON_BLACK.sub(_plain_letter, text)
    text = unicodedata.normalize("NFKC", _MARK_FLOOD.sub(r"\1", text))
    text, removed = _OVERLAYS.subn("", text)
    if removed:
        text = unicodedata.normalize("NFKC", text)
    text = _unmarked(_MARK_FLOOD.sub(r"\1", _MARK_STACK.sub(r"\1", text)))
    folded = fold_confusables(text)
    return text if folded is text else unicodedata.normalize("NFKC", folded)


def _unmarked(text: str) -> str:
    """The text without any mark if it is strewn with them: after composing, spellings leave few
    marks by themselves."""
    left = len(_MARK.findall(text))
    if left < _MIN_STREWN or left < _MIN_STREWN_SHARE * len(text):
        return text
    return unicodedata.normalize("NFKC", _MARK.sub("", unicodedata.normalize("NFD", text)))


def _closed_up(found: re.Match[str]) -> str:
    """Words of letters that stood apart; what was further apart stays apart."""
    run = found.group()
    signs = run.split()
    if sum(map(str.isalpha, signs)) < _MIN_SPACED_LETTERS * len(signs):
        return run
    return " ".join(word.replace(" ", "") for word in _WIDE_BLANKS.split(run))


def _written_out(found: re.Match[str]) -> str:
    return f"\n{found.group().translate(_TAGGED)}\n"


def _plain_letter(found: re.Match[str]) -> str:
    return chr(ord("A") + (ord(found.group()) - 0x1F150) % 32)


# Scripts written without spaces (Thai, Lao, Myanmar, Khmer, kana, Han): each character is a word.
_SINGLE_POINTS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_SINGLE = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in _SINGLE_POINTS)
# Vowel signs and viramas belong to their word, yet \w leaves them out.
_WORD_MARKS = _ranges(
    [
        point
        for point, category in enumerate(_CATEGORIES)
        if category in ("Mn", "Mc")
        and not any(first <= point <= last for first, last in _SINGLE_POINTS)
    ]
)
_WORD = re.compile(rf"(?:[^\W_{_SINGLE}]+|[{_WORD_MARKS}]+)+|\n|\S")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and stop of each word unit: a run of letters and digits, one character of a script
    without spaces, one punctuation mark, one newline. What lies between is blank."""
    return [found.span() for found in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The word units of `word_spans` themselves."""
    found: list[str] = _WORD.findall(text)
    return found


_BARE = re.compile(rf"(?:[^\w{_WORD_MARKS}]|_)+")


def bare(text: str) -> str:
    """The text without punctuation, what stood between words as one space."""
    return _BARE.sub(" ", text).strip()


def first_word_spans(text: str, start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """`word_spans` of the first `count` words, or as many as there are, of text[start:stop], as
    places in the text."""
    return [found.span() for found in islice(_WORD.finditer(text, start, stop), count)]


_SCRIPT_STARTS, _SCRIPT_NAMES = zip(
    (0x0000, "latin"), (0x0370, "greek"), (0x0400, "cyrillic"), (0x0530, "other"),
    (0x0590, "hebrew"), (0x0600, "arabic"), (0x0700, "other"), (0x0750, "arabic"),
    (0x0780, "other"), (0x0870, "arabic"), (0x0900, "devanagari"), (0x0980, "other"),
    (0x0E00, "thai"), (0x0E80, "other"), (0x1100, "hangul"), (0x1200, "other"),
    (0x1C80, "cyrillic"), (0x1C90, "other"), (0x1D00, "latin"), (0x1D26, "other"),
    (0x1E00, "latin"), (0x1F00, "greek"), (0x2000, "other"), (0x2C60, "latin"),
    (0x2C80, "other"), (0x3005, "han"), (0x3040, "kana"), (0x3100, "other"),
    (0x3130, "hangul"), (0x3190, "other"), (0x31F0, "kana"), (0x3200, "other"),
    (0x3400, "han"), (0xA000, "other"), (0xA640, "cyrillic"), (0xA6A0, "other"),
    (0xA720, "latin"), (0xA800, "other"), (0xA8E0, "devanagari"), (0xA900, "other"),
    (0xAC00, "hangul"), (0xD800, "other"), (0xF900, "han"), (0xFB00, "latin"),
    (0xFB13, "other"), (0xFB1D, "hebrew"), (0xFB50, "arabic"), (0xFE00, "other"),
    (0xFE70, "arabic"), (0xFEFF, "other"), (0xFF21, "latin"), (0xFF5B, "other"),
    (0xFF66, "kana"), (0xFFA0, "hangul"), (0xFFE0, "other"), (0x20000, "han"),
    (0x40000, "other"), strict=True,
)  # fmt: skip


@lru_cache(maxsize=4096)
def _script(char: str) -> str | None:
    """The coarse script of a letter, None for what is no letter."""
    if not char.isalpha():
        return None
    return str(_SCRIPT_NAMES[bisect_right(_SCRIPT_STARTS, ord(char)) - 1])


def scripts(text: str) -> dict[str, float]:
    """Share of the letters by coarse script: latin, cyrillic, greek, han, kana, hangul, arabic,
    hebrew, devanagari, thai, other. Scripts that do not occur are left out; {} without letters.

    Read from at most SCRIPT_SAMPLE_CHARS characters, evenly spread over the text.
    """
    sample = text[:: -(-len(text) // SCRIPT_SAMPLE_CHARS) or 1]
    counts = Counter(_script(char) for char in sample)
    del counts[None]
    letters = counts.total()
    return {str(name): count / letters for name, count in counts.items()}


_BASE64_DIGITS = r"[A-Za-z0-9+/_-]"
# Runs broken into lines are one run; a short last line is told by its padding.
_BASE64 = re.compile(
    rf"{_BASE64_DIGITS}{{16,}}(?:\s{_BASE64_DIGITS}{{16,}})*(?:\n{_BASE64_DIGITS}{{2,15}}=)?={{0,2}}"
)
_HEX_PAIR = r"(?:0x|\\x)?[0-9A-Fa-f]{2}"
_HEX = re.compile(rf"(?<![0-9A-Fa-f])(?:{_HEX_PAIR}[ :,]?){{11,}}{_HEX_PAIR}(?![0-9A-Fa-f])")
_HEX_JOINTS = re.compile(r"0x|\\x|[ :,]")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPED = re.compile(r"\S*%\S+")
_MIN_ESCAPES = 4

_LEET_SIGNS = "013457890@$!|"
_LEET = str.maketrans("03457890@$!|", "oeastbgoasil")
_LATIN = "A-Za-z\u00c0-\u024f"
_LEET_WORD = re.compile(rf"(?<![\w@$!|\\])[{_LATIN}0-9@$!|]{{2,}}(?![\w@$|])")
_LEET_INSIDE = re.compile(rf"[{_LATIN}][013457890@$!|]+[{_LATIN}]|^[013457890]+[{_LATIN}]{{2}}")
_LEET_START = re.compile(rf"[{_LEET_SIGNS}][{_LATIN}]")
_LATIN_SIGN = re.compile(rf"[{_LATIN}0-9]")
_LEET_L = re.compile(r"1(?=[aeiou])|(?<=[aeiou])1(?![A-Za-z])")
_MIN_LEET_WORDS = 4
_MIN_LEET_SHARE = 0.25

# Marks behind letters, where no spelling puts them: "write~ the^' ste*ps".
_SIGN = r"[.,;:!?~*_|/^'-]"
# Looked back from behind the first of them: to look from every place of a text is slow.
_BEHIND_LETTER = rf"(?:(?<=[^\W\d_]{_SIGN})|(?<=[{_WORD_MARKS}]{_SIGN}))"
_SIGNS = re.compile(rf"{_SIGN}{_BEHIND_LETTER}{_SIGN}*")
# At the end of a word, or more than one of them.
_SIGNS_APART = re.compile(rf"{_SIGN}{_BEHIND_LETTER}(?:{_SIGN}*(?!\S)|{_SIGN}+)")
_USUAL_SIGNS = frozenset(
    re.findall(
        r"\S+",
        """. , ; : ! ? ' - * _ / | .. ?! !? !! ?? .' ,' '. ', ',' ., .: ** __ -- *. *, .* **: **,
        **. .** :** ?** :// /* */ ./ :: ;; ../ __. ._ _. .- -. ,-""",
    )
)
_MIN_STREWN_SIGNS, _MIN_STREWN_KINDS, _MIN_STREWN_SIGN_SHARE = 3, 3, 0.012
_MOST_STREWN_TOGETHER = 4


def revealed(text: str) -> str:
    """A normalised text with what it holds in base64, hexadecimal or percent-encoding, also one
    inside the other, written out in its place, normalised, with leetspeak read as letters, and
    without punctuation strewn over it; ordinary text as it is. Every reader of a prompt reads
    this."""
    for _ in range(MAX_DECODING_DEPTH):
        before = text
        text = _BASE64.sub(lambda found: _shown(found, _from_base64), text)
        text = _HEX.sub(lambda found: _shown(found, _from_hex), text)
        if text.count("%") >= _MIN_ESCAPES:
            text = _ESCAPED.sub(lambda found: _shown(found, _from_percent), text)
        if text == before:
            break
    return _read_leet(text) or _without_strewn_signs(text)


def _shown(found: re.Match[str], decode: Callable[[str], str | None]) -> str:
    run = found.group()
    plain = normalise(decode(run) or "")
    if not plain:
        return run
    # Apart from what stands around it: a run may have no blanks on its sides.
    left, right = run[0].isspace(), run[-1].isspace()
    return f"{' ' * left}{plain}{' ' * right}"


def _from_base64(run: str) -> str | None:
    parts = run.rstrip("=").replace("-", "+").replace("_", "/").split()
    whole = _from_base64_digits("".join(parts))
    if whole or len(parts) == 1:
        return whole
    return "\n".join(filter(None, map(_from_base64_digits, parts)))


def _from_base64_digits(digits: str) -> str | None:
    if len(digits) < MIN_ENCODED_CHARS:
        return None
    # Letters stuck to the front shift the code by up to three digits.
    probes = [digits[shift:][: min(len(digits) - shift, 64) // 4 * 4] for shift in range(4)]
    starts = [_readable(base64.b64decode(probe)) for probe in probes]
    if not any(starts):
        return None
    shift = min(range(4), key=lambda n: _oddity(starts[n]))
    rest = digits[shift:]
    rest = rest[:-1] if len(rest) % 4 == 1 else rest
    return _readable(base64.b64decode(rest + "=" * (-len(rest) % 4)))


def _oddity(text: str | None) -> float:
    """Share of characters that plain English would not have; above 1 for no text."""
    return 2.0 if text is None else sum(not " " <= char <= "~" for char in text) / len(text)


def _from_percent(run: str) -> str | None:
    escapes = sum(1 for _ in _ESCAPE.finditer(run))
    return _readable(unquote_to_bytes(run)) if escapes >= _MIN_ESCAPES else None


def _from_hex(run: str) -> str | None:
    digits = _HEX_JOINTS.sub("", run)
    # Decimal digits alone are a number.
    if digits.isdecimal():
        return None
    try:
        return _readable(binascii.unhexlify(digits))
    except ValueError:
        return None


def _readable(content: bytes) -> str | None:
    """The bytes as text if they are that: UTF-8 up to a cut end, printable, mostly letters."""
    text = content.decode("utf-8", "replace").rstrip("\ufffd")
    if len(text) < 8:
        return None
    printable = sum(char.isprintable() or char in "\n\t\r" for char in text) - text.count("\ufffd")
    letters = sum(char.isalnum() or char == " " for char in text)
    return text if printable >= 0.95 * len(text) and letters >= 0.6 * len(text) else None


def _read_leet(text: str) -> str | None:
    """The whole text with digits and signs inside words read as letters, if such words are a
    large share of its words."""
    sample = text[:4096]
    # Ordinary text has none and need not be cut into words.
    if not _LEET_START.search(sample):
        return None
    tokens = [token for token in _LEET_WORD.findall(sample) if not token.isdecimal()]
    inside = sum(bool(_LEET_INSIDE.search(token)) for token in tokens)
    covered = sum(map(len, tokens)) >= len(_LATIN_SIGN.findall(sample)) / 2
    if not covered or inside < max(_MIN_LEET_WORDS, _MIN_LEET_SHARE * len(tokens)):
        return None
    return _LEET_WORD.sub(_plain_word, text)


def _plain_word(found: re.Match[str]) -> str:
    word = found.group()
    if word.isdecimal() or not any(char in _LEET_SIGNS for char in word):
        return word
    tail = word[len(word.rstrip("!")) :] and "!"
    plain = word.rstrip("!").lower().translate(_LEET)
    return _LEET_L.sub("l", plain).replace("1", "i") + tail


def _without_strewn_signs(text: str) -> str:
    """The text without marks behind letters, if those that no spelling puts there are many and of
    many kinds; else as it is."""
    sample = text[:4096]
    odd = [run for run in _SIGNS_APART.findall(sample) if not _usual(run)]
    least = max(_MIN_STREWN_SIGNS, _MIN_STREWN_SIGN_SHARE * len(sample))
    if len(odd) < least or len(set(odd)) < _MIN_STREWN_KINDS:
        return text
    return _SIGNS.sub(_likely_sign, text)


def _usual(run: str) -> bool:
    # One mark again and again is a blank to fill in, or a pause.
    return run in _USUAL_SIGNS or (len(run) > 2 and len(set(run)) == 1)


def _likely_sign(found: re.Match[str]) -> str:
    """What of a run of marks the text had before: its last one, where one is likely."""
    run = found.group()
    if len(run) > _MOST_STREWN_TOGETHER:
        return run
    last = run[-1]
    after = found.string[found.end() : found.end() + 2]
    if after[:1].isalnum():
        return last if last in "-'" else ""
    ends = not after.strip() or after[0] == "\n" or after[-1].isupper()
    return last if ends and last in ".?!:" else ""
