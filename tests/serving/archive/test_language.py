"""Guesses at the language of prompts."""

import pytest

from stillwatch.serving.archive.language import LANGUAGES, guess_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I get the wine stain out of this cloth?", "en"),
        ("Wie bekomme ich den Fleck aus der Tischdecke?", "de"),
        ("Comment est-ce que je peux enlever une tache sur la nappe ?", "fr"),
        ("¿Cómo quito una mancha de vino del mantel?", "es"),
        ("Como é que eu tiro uma mancha de vinho da toalha?", "pt"),
        ("Come tolgo una macchia di vino dalla tovaglia che ho?", "it"),
        ("Hoe krijg ik een vlek uit het tafelkleed?", "nl"),
        ("Masa örtüsünden bir leke nasıl çıkar?", "tr"),
        ("Как вывести пятно с скатерти, и что для этого нужно?", "ru"),
        ("Як вивести пляму та що для цього треба?", "uk"),
        ("怎样去掉桌布上的酒渍？", "zh"),
        ("テーブルクロスの染みはどう取りますか", "ja"),
        ("식탁보의 얼룩을 어떻게 지우나요", "ko"),
        ("كيف أزيل البقعة من المفرش؟", "ar"),
        ("मेज़पोश से दाग कैसे हटाएँ", "hi"),
        ("word1 word2", "und"),
        ("12 + 30 = ?", "und"),
        ("", "und"),
    ],
)
def test_guesses(text: str, language: str) -> None:
    assert guess_language(text) == language
    assert language in LANGUAGES
