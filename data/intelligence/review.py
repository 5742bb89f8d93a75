"""What the text of a template must not hold before it goes out, and before it is let in.

A person reviews a template; this is a net under that, not in its place: it knows forms, not
meanings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from stillwatch.data.intelligence.vocabulary import MAX_PATTERN_CHARS, SLOT

LEAST_WORDS = 5
"""Words outside the slot below which a text is too general to stand for anything."""
LEAST_CHARS = 20
"""Letters outside the slot, of text in alphabets."""
LEAST_DENSE = 8
"""Characters outside the slot, of scripts that put no blanks between words."""
LEAST_ID = 5
"""Shortest id that is looked for in a text: shorter ones stand in ordinary words."""

_JOINERS = "\u200c\u200d"
_CURRENCY = (
    r"(?:[$€£¥₹₩₽₺₪₫฿₴₦]|\b(?:usd|eur|gbp|jpy|cny|rmb|chf|inr|krw|aud|cad|brl|rub|sek|pln|try)\b)"
)
_NUMBER = r"\d[\d.,'’ ]*"
_FORMS = (
    ("an e-mail address", re.compile(r"[\w.+-]+\s?@\s?[\w-]+(?:\.[\w-]+)+")),
    ("a web address", re.compile(r"\b[a-z][a-z0-9+.-]*://|\bwww\.[\w-]+\.\w")),
    (
        "a host name",
        re.compile(
            r"\b[a-z0-9-]{2,}\.(?:com|org|net|io|ai|dev|app|cloud|info|biz|co|de|fr|uk|eu|cn|jp|"
            r"in|ru|br|us|ch|at|nl|es|it|pl|internal|local|corp|lan)\b"
        ),
    ),
    (
        "a network address",
        re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){3,7}\b"),
    ),
    # Enough digits for a phone, a card, an account or an order.
    ("a long number", re.compile(r"(?:\d[\s().+/-]{0,2}){8,}")),
    ("a key or a hash", re.compile(r"\b(?=[a-z0-9_-]*\d)(?=[a-z0-9_-]*[a-z])[a-z0-9_-]{20,}\b")),
    ("an amount of money", re.compile(rf"{_CURRENCY}\s?{_NUMBER}|{_NUMBER}\s?{_CURRENCY}")),
    (
        "words on prices or terms",
        re.compile(
            r"\b(?:price|prices|pricing|priced|discounts?|rebates?|invoices?|contracts?|"
            r"contractual|sla|slas|msa|nda|licen[cs]e fees?|list price|per seat|per token|"
            r"payment terms|terms of service|terms and conditions|preise?|rabatte?|rechnungen?|"
            r"vertr[aä]ge?|vertrag|tarife?|prix|tarifs?|remises?|factures?|contrats?|precios?|"
            r"descuentos?|facturas?|contratos?|prezz[oi]|sconti?|contratt[oi]|preços?)\b"
            r"|价格|合同|折扣|发票|報價|価格|契約|請求書|цен[аыу]|договор|скидк[аи]"
        ),
    ),
)  # fmt: skip


def why_not_shareable(text: str, ids: Iterable[str] = ()) -> str | None:
    """What a text holds that looks like a customer's, None if nothing does. `ids` are names, of
    accounts say, that must not stand in it. Nothing of the text is in the answer."""
    folded = _folded(text)
    for name, form in _FORMS:
        if form.search(folded):
            return name
    for one in ids:
        own = _folded(one).strip()
        if len(own) >= LEAST_ID and own in folded:
            return "the id of an account"
    return why_no_text(text)


def why_no_text(text: str) -> str | None:
    """What is wrong with a text as the pattern of a template, None if nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate"
    if len(text) > MAX_PATTERN_CHARS:
        return f"more than {MAX_PATTERN_CHARS} characters"
    if text.count(SLOT) > 1:
        return f"more than one {SLOT}"
    if any(_hidden(char) for char in text):
        return "characters that are not seen"
    return None


def why_too_general(text: str) -> str | None:
    """Why a text is near to too much to stand for an attack, None if it is not."""
    rest = text.replace(SLOT, " ")
    words = set(re.findall(r"[^\W\d_]+", rest.casefold()))
    letters = sum(char.isalpha() for char in rest)
    dense = sum(char.isalpha() and ord(char) > 0x0E00 and _dense(char) for char in rest)
    if dense >= letters / 2 and letters:
        return None if letters >= LEAST_DENSE else f"{letters} characters beside its slot"
    if len(words) < LEAST_WORDS or letters < LEAST_CHARS:
        return f"{len(words)} different words beside its slot"
    return None


def _hidden(char: str) -> bool:
    kind = unicodedata.category(char)
    return (kind == "Cc" and char not in "\n\t") or (kind in ("Cf", "Co") and char not in _JOINERS)


def _dense(char: str) -> bool:
    """Whether a letter is of a script without blanks between words."""
    name = unicodedata.name(char, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))


def _folded(text: str) -> str:
    """One form for what looks alike: digits of any script are ASCII, what is not seen is gone."""
    plain = unicodedata.normalize("NFKC", text)
    kept = (char for char in plain if unicodedata.category(char) not in ("Cf", "Mn"))
    return "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in kept).casefold()
