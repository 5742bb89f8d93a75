"""A light guess at a prompt's language: its script, and for Latin and Cyrillic its stop-words.

It is there to filter by, not to rely on: short texts of Latin letters without a stop-word are
"und", and languages without a list here are taken for a neighbour or for "und". A prompt under a
frame in another language is guessed by the words that are most.
"""

from __future__ import annotations

from collections import Counter

from stillwatch.model.text import scripts

UNKNOWN = "und"
SAMPLE_CHARS = 2000

_BY_SCRIPT = {
    "han": "zh", "hangul": "ko", "arabic": "ar", "hebrew": "he", "devanagari": "hi", "thai": "th",
    "greek": "el",
}  # fmt: skip
MIN_KANA = 0.1
"""Share of kana in letters from which Han characters are read as Japanese."""

# Words that are frequent in one language and rare in the others here.
_STOP_WORDS = {
    "en": "the and of to is that for with this you what how from are have your which please",
    "de": "der die und das ist nicht ein eine mit für auf den von wie ich bitte wird dem zu",
    "fr": "le les des est une dans pour que qui sur avec pas vous je il du au ce comment",
    "es": "el los las es una por que con para del como se su más qué cómo y pero muy",
    "pt": "o os as é uma por que com para do da como não se em mais você um são",
    "it": "il che di è una per con del della non come sono gli questo nel più e anche",
    "nl": "de het een van en is dat niet met voor op zijn te hoe ik deze wat maar",
    "pl": "i w nie na się jest do to że z jak co dla czy po przez oraz tego",
    "tr": "bir ve bu için ile ne nasıl değil çok daha olarak gibi var mı ben olan",
    "id": "yang dan di untuk dengan ini itu dari tidak adalah pada saya apa dalam bagaimana",
    "vi": "là của và các cho không một được trong với có này những tôi như thế",
    "sv": "och att det är som en på för av med inte den till har jag hur ett",
    "ru": "и в не на что как это с по для я то из но вы он мне или",
    "uk": "і в не на що як це з для та у є чи але від або ти мені",
    "bg": "и на да се за от не е ще са това как че със ли към",
}
_LANGUAGES: dict[str, tuple[str, ...]] = {}
for _language, _words in _STOP_WORDS.items():
    for _word in _words.split():
        _LANGUAGES[_word] = (*_LANGUAGES.get(_word, ()), _language)
_CYRILLIC = {"ru", "uk", "bg"}
LANGUAGES = tuple(sorted({*_STOP_WORDS, *_BY_SCRIPT.values(), "ja", UNKNOWN}))
"""Every answer that there is."""


def guess_language(text: str) -> str:
    """One of LANGUAGES, as a two-letter code; "und" where nothing speaks for any."""
    # Most prompts: there is nothing to count.
    shares = {"latin": 1.0} if text.isascii() else scripts(text)
    if not shares:
        return UNKNOWN
    script = max(shares, key=lambda name: shares[name])
    if shares.get("kana", 0) >= MIN_KANA and script in ("han", "kana"):
        return "ja"
    if script in _BY_SCRIPT:
        return _BY_SCRIPT[script]
    if script not in ("latin", "cyrillic"):
        return UNKNOWN
    # A word that several languages share speaks for each of them a little.
    votes: Counter[str] = Counter()
    for word in text[:SAMPLE_CHARS].lower().split():
        for language in _LANGUAGES.get(word.strip(".,;:!?()\"'«»¿¡"), ()):
            if (language in _CYRILLIC) == (script == "cyrillic"):
                votes[language] += 1
    if not votes:
        return UNKNOWN
    most = max(votes.values())
    # Of those with most words, the one listed first.
    return next(language for language in _STOP_WORDS if votes[language] == most)
