"""Results as `stillwatch evaluate` writes them, and its page as a reader sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from stillwatch.training.benchmark.report import (
    write_report,
)

NAN = float("nan")
VOID = {"meta", "link", "path", "img", "br"}


@dataclass
class Element:
    """An element of the page; `text` is all text in it, its children's too."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        return [one for one in self.walk() if one.tag == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


class Page(HTMLParser):
    """The page as a tree; a tag that is closed but not open fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self._open = self.root
        self.feed(text)
        self.close()
        assert self._open is self.root, f"{self._open.tag} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._open)
        self._open.children.append(element)
        if tag not in VOID:
            self._open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.tag == tag, f"{tag} closes {self._open.tag}"
        assert self._open.parent is not None
        self._open = self._open.parent

    def handle_data(self, data: str) -> None:
        element: Element | None = self._open
        while element is not None:
            element.text += data
            element = element.parent

    def section(self, ident: str) -> Element:
        """The section whose heading has this id."""
        for section in self.root.all("section"):
            if any(one.attributes.get("id") == ident for one in section.all("h2")):
                return section
        raise AssertionError(f"no section {ident}")

    def rows(self, caption: str) -> list[list[str]]:
        """The body of the one table whose caption starts so, cell by cell."""
        tables = [
            table
            for table in self.root.all("table")
            if table.all("caption")[0].text.startswith(caption)
        ]
        assert len(tables) == 1, caption
        return [
            [cell.words for cell in row.children]
            for body in tables[0].all("tbody")
            for row in body.all("tr")
        ]


def rate(recall: float | None, cells: Sequence[float | None], reached: float) -> dict[str, Any]:
    return {
        "recall": recall,
        "interval": [0.411, 0.689],
        "cells": cells,
        "false_positive_rate": reached,
        "false_positive_interval": [0.0011, 0.0064],
    }


def setting() -> dict[str, Any]:
    own = [0.9, 0.7, 0.5, 0.1, 0.9, 0.7, 0.5, 0.3, 0.9, 0.8, 0.5, 0.2]
    other = [0.8, 0.6, 0.4, 0.2, 0.8, 0.7, 0.4, 0.4, 0.8, 0.6, 0.4, 0.1]
    account = {
        "account": "t1o33",
        "kind": "product",
        "language": "de",
        "risk": 0.93,
        "events": 120,
        "share": 0.0,
        "origins": ["retail-tags-en"],
        "prompts": ["Label this linen shirt."],
    }
    return {
        "methods": {
            "stillwatch": {
                "0.01": rate(0.70, own, 0.0107),
                "0.003": rate(0.58, own, 0.0031),
                "0.001": rate(0.31, own, 0.001),
            },
            "gradient boosting": {
                "0.01": rate(0.65, other, 0.0099),
                "0.003": rate(0.51, other, 0.0029),
                "0.001": rate(0.36, other, 0.001),
            },
            "nearest template": {
                "0.01": rate(0.20, [0.1] * 12, 0.01),
                "0.003": rate(0.15, [0.1] * 12, 0.003),
                "0.001": rate(None, [None] * 12, 0.001),
            },
        },
        "curves": {
            "stillwatch": {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.9, 0.05]},
            "gradient boosting": {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.8, 0.05]},
        },
        "prevalence": 0.05,
        "detection": {
            "1.0": {"streams": 300, "found": 200, "quartiles": [4, 6, 11]},
            "0.5": {"streams": 300, "found": 0, "quartiles": []},
        },
        "reliability": {
            "ece": 0.0123,
            "bins": [
                {
                    "low": 0.0,
                    "high": 0.1,
                    "accounts": 9000,
                    "mean_risk": 0.02,
                    "attack_share": 0.01,
                },
                {
                    "low": 0.1,
                    "high": 0.2,
                    "accounts": 0,
                    "mean_risk": NAN,
                    "attack_share": NAN,
                },
                {
                    "low": 0.9,
                    "high": 1.0,
                    "accounts": 300,
                    "mean_risk": 0.95,
                    "attack_share": 0.9,
                },
            ],
        },
        "ordinary_by_kind": {
            "person": {"accounts": 5000, "flagged": 5},
            "student": {"accounts": 500, "flagged": 15},
            "product": {"accounts": 4500, "flagged": 10},
        },
        "ordinary_by_language": {"de": {"accounts": 600, "flagged": 3}},
        "attacks_by_language": {"de": {"accounts": 50, "found": 30}},
        "attacks_by_family": {
            "cot_tags": {"accounts": 40, "found": 30},
            "out_persona": {"accounts": 40, "found": 10},
        },
        "evidence": {"0.25": {"streams": 40, "events": 200, "attack": 150}},
        "worst": {
            "false_flags": [account],
            "missed": [{**account, "account": "t2a7", "share": 0.1, "risk": 0.02}],
        },
    }


def results() -> dict[str, Any]:
    return {
        "command": "stillwatch evaluate --folds 1,2",
        "intents": ["capability_probing", "cot_harvesting", "output_harvesting"],
        "shares": [1.0, 0.5, 0.25, 0.1],
        "rates": [0.01, 0.003, 0.001],
        "accounts": {"attacks known": 1200, "ordinary known": 10000},
        "settings": {"known": setting(), "new": setting()},
        "robustness": {
            "rate": 0.003,
            "clean_recall": 0.5,
            "evasions": [{"name": "zero_width", "streams": 300, "recall": 0.46, "clean": 0.5}],
            "positions": [{"tokens": 400, "streams": 310, "recall": 0.37}],
            "shares": [{"share": 0.01, "streams": 100, "recall": 0.08}],
        },
    }


def text_of(own: dict[str, Any], folder: Path) -> str:
    path = write_report(own, folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def page_of(own: dict[str, Any], folder: Path) -> Page:
    return Page(text_of(own, folder))


def with_prompts(*prompts: str) -> dict[str, Any]:
    own = results()
    own["settings"]["known"]["worst"]["false_flags"][0]["prompts"] = list(prompts)
    return own
