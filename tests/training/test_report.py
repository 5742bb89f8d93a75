"""The report of an evaluation: what it says, and that nothing in it can reach out or take over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stillwatch.training.benchmark.charts import Axis, Series, line_chart
from stillwatch.training.benchmark.report import (
    MARKED_RATIO,
    SHOWN_CHARACTERS,
    visible,
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


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return page_of(results(), tmp_path)


def with_prompts(*prompts: str) -> dict[str, Any]:
    own = results()
    own["settings"]["known"]["worst"]["false_flags"][0]["prompts"] = list(prompts)
    return own


def test_it_says_what_was_tested(page: Page) -> None:
    tested = page.section("tested")
    assert "stillwatch evaluate --folds 1,2" in tested.words
    assert page.rows("Test accounts") == [["attacks known", "1,200"], ["ordinary known", "10,000"]]


def test_the_best_of_each_column_is_bold_and_stands_with_its_interval(page: Page) -> None:
    for name in ("known", "new"):
        caption = f"Recall by method and share of false positives, {name} traffic"
        rows = page.rows(caption)
        assert [row[0] for row in rows] == ["stillwatch", "gradient boosting", "nearest template"]
        assert rows[0][2] == "58.0% 41.1–68.9% flags 0.31% (0.11–0.64%)"
        assert rows[2][3] == "not measured"
    bold = [one.words for one in page.section("methods").all("table")[0].all("strong")]
    assert bold == ["70.0%", "58.0%", "36.0%"]


def test_cells_stand_beside_the_best_baseline(page: Page) -> None:
    section = page.section("cells")
    assert section.words.count("Stillwatch is ahead of gradient boosting in 9 of 12 cells") == 2
    assert "level in 1" in section.words
    rows = page.rows("Recall by intent and share of attack prompts, new traffic")
    assert rows[0] == ["capability_probing"]
    assert rows[1] == ["stillwatch", "90.0%", "70.0%", "50.0%", "10.0%"]
    assert rows[2] == ["gradient boosting", "80.0%", "60.0%", "40.0%", "20.0%"]
    first = section.all("tbody")[0].all("tr")
    assert [one.words for one in first[1].all("strong")] == ["90.0%", "70.0%", "50.0%"]
    assert [one.words for one in first[2].all("strong")] == ["20.0%"]


def test_an_empty_cell_is_not_counted(tmp_path: Path) -> None:
    own = results()
    own["settings"]["new"]["methods"]["stillwatch"]["0.003"]["cells"][:2] = [NAN, None]
    section = page_of(own, tmp_path).section("cells")
    assert "in 7 of 10 cells, level in 1; 2 cells are not measured" in section.words
    assert "nan" not in section.words


def test_prompts_to_detection(page: Page) -> None:
    rows = page.rows("Attack prompts until the first flag")
    assert rows[0][:2] == ["100%", "median 6 quartiles 4 to 11 200 of 300 found"]
    assert rows[1][1] == "median not measured 0 of 300 found"
    assert rows[2] == ["25%", "not measured", "not measured"]


def test_prevalence_and_calibration_error_are_stated(page: Page) -> None:
    assert page.section("curves").words.count("Prevalence: 5% of accounts attack.") == 2
    assert page.section("risk").words.count("ECE 0.012") == 2
    assert page.rows("Bins of risk, known traffic")[:2] == [
        ["0–10%", "9,000", "2.0%", "1.0%"],
        ["10–20%", "0", "not measured", "not measured"],
    ]


def test_kinds_flagged_far_more_often_are_marked_with_a_word(page: Page) -> None:
    rows = page.rows("Ordinary accounts flagged, by kind of account")
    # 30 of 10,000 overall; 15 of 500 is ten times that.
    assert rows == [
        ["student", *["above 5 times 3.00% 15 of 500, 10.0 times"] * 2],
        ["product", *["0.22% 10 of 4,500, 0.7 times"] * 2],
        ["person", *["0.10% 5 of 5,000, 0.3 times"] * 2],
    ]
    assert page.rows("Ordinary accounts flagged, by language") == [
        ["de", *["0.50% 3 of 600, 1.0 times"] * 2]
    ]


def test_just_five_times_is_not_marked(tmp_path: Path) -> None:
    own = results()
    # Overall 10 of 1,000; "a" 5 of 100 is just five times that.
    groups = {"a": {"accounts": 100, "flagged": 5}, "b": {"accounts": 900, "flagged": 5}}
    for name in ("known", "new"):
        own["settings"][name]["ordinary_by_kind"] = groups
    page = page_of(own, tmp_path)
    assert MARKED_RATIO == 5
    assert page.rows("Ordinary accounts flagged, by kind")[0][1] == "5.00% 5 of 100, 5.0 times"


def test_recall_by_language_and_family_has_the_worst_on_top(page: Page) -> None:
    assert page.rows("Attacking accounts found, by attack family") == [
        ["out_persona", "10 of 40 25.0%", "10 of 40 25.0%"],
        ["cot_tags", "30 of 40 75.0%", "30 of 40 75.0%"],
    ]
    assert page.rows("Attacking accounts found, by language")[0][1] == "30 of 50 60.0%"


def test_a_group_of_one_setting_is_not_measured_in_the_other(tmp_path: Path) -> None:
    own = results()
    own["settings"]["new"]["attacks_by_family"]["probe_limits"] = {"accounts": 10, "found": 1}
    rows = page_of(own, tmp_path).rows("Attacking accounts found, by attack family")
    assert rows[0] == ["probe_limits", "not measured", "1 of 10 10.0%"]


def test_evidence_and_robustness(page: Page) -> None:
    rows = page.rows("Precision of the top five events")
    assert rows[2][1] == "75.0% 150 of 200 events flagged accounts: 40"
    assert rows[0][1] == "not measured"
    assert "50.0% when they do not" in page.section("robustness").words
    assert page.rows("Evasions") == [["zero_width", "300", "50.0%", "46.0%", "−4.0"]]
    assert page.rows("Position of the payload") == [["400", "310", "37.0%"]]
    assert page.rows("Share: recall") == [["1%", "100", "8.0%"]]


def test_the_worst_errors_stand_with_origins_and_prompts(page: Page) -> None:
    details = page.section("worst").all("details")
    assert len(details) == 4
    assert details[0].all("summary")[0].words == "t1o33, product, de, risk 0.93, 120 events"
    assert details[1].all("summary")[0].words.endswith("120 events, 10% attack")
    assert "Origins: retail-tags-en." in details[0].words
    assert [one.words for one in details[0].all("li")] == ["Label this linen shirt."]
    assert details[0].all("li")[0].children[0].tag == "bdi"


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</bdi></li></ol></details><h1>Found</h1>",
    "\"'><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<style>@import url(https://collector.example/x)</style>",
]


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path: Path, prompt: str) -> None:
    own = with_prompts(prompt)
    worst = own["settings"]["new"]["worst"]["missed"][0]
    worst |= {"account": prompt, "kind": prompt, "language": prompt, "origins": [prompt]}
    own["command"] = prompt
    own["accounts"] = {prompt: 1}
    own["intents"] = [prompt, "b", "c"]
    own["robustness"]["evasions"][0]["name"] = prompt
    for name in ("known", "new"):
        one = own["settings"][name]
        one["methods"] |= {prompt: one["methods"]["nearest template"]}
        one["curves"][prompt] = one["curves"]["stillwatch"]
        one["ordinary_by_kind"][prompt] = {"accounts": 10, "flagged": 1}
        one["attacks_by_family"][prompt] = {"accounts": 10, "found": 1}
    page = page_of(own, tmp_path)
    items = [one.words for one in page.section("worst").all("li")]
    assert prompt in items
    plain = {one.tag for one in page_of(results(), tmp_path).root.walk()}
    assert {one.tag for one in page.root.walk()} == plain
    for element in page.root.walk():
        assert not any(name.startswith("on") for name in element.attributes)
    assert len(page.root.all("h1")) == 1


def test_direction_and_invisible_characters_are_shown_by_code_point(tmp_path: Path) -> None:
    prompt = "a\u202eb\u200fc\u200bd\ud800e\x00f\r\u2028g\U000e0041h"
    text = text_of(with_prompts(prompt), tmp_path)
    item = Page(text).section("worst").all("li")[0]
    assert item.words == "aU+202EbU+200FcU+200BdU+D800eU+0000fU+000DU+2028gU+E0041h"
    assert not set(text) & set("\u202e\u200f\u200b\x00\r\u2028\U000e0041")
    assert {one.attributes["class"] for one in item.all("span")} == {"code"}


def test_lines_and_other_scripts_stay_as_they_are() -> None:
    assert visible("first\n\tمرحبا 你好") == "<bdi>first\n\tمرحبا 你好</bdi>"


def test_a_long_prompt_is_shortened_and_says_so(tmp_path: Path) -> None:
    text = text_of(with_prompts("y" * 200_000), tmp_path)
    assert "y" * SHOWN_CHARACTERS in text
    assert "y" * (SHOWN_CHARACTERS + 1) not in text
    assert f"the first {SHOWN_CHARACTERS} of 200,000 characters" in text


def test_a_prompt_of_the_shown_length_is_not_called_shortened(tmp_path: Path) -> None:
    assert "shortened" not in text_of(with_prompts("y" * SHOWN_CHARACTERS), tmp_path)


def test_more_prompts_than_are_shown_are_counted(tmp_path: Path) -> None:
    page = page_of(with_prompts(*["p"] * 13), tmp_path)
    assert "3 more prompts are left out." in page.section("worst").all("details")[0].words


def test_nothing_is_asked_of_the_network_and_nothing_runs(tmp_path: Path) -> None:
    text = text_of(results(), tmp_path)
    page = Page(text)
    tags = {one.tag for one in page.root.walk()}
    assert not tags & {"script", "iframe", "object", "embed", "form", "img", "base", "audio"}
    policy = [
        one.attributes["content"]
        for one in page.root.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    idents = {one.attributes["id"] for one in page.root.walk() if "id" in one.attributes}
    for element in page.root.walk():
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            target = element.attributes.get(name)
            assert target is None or target == "data:," or target[1:] in idents, target
    assert not re.search(r"https?:|//|url\(|@import|javascript:", text.replace("<!--", ""))


def test_headings_tables_and_charts_are_accessible(page: Page) -> None:
    levels = [int(e.tag[1]) for e in page.root.walk() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for table in page.root.all("table"):
        assert table.children[0].tag == "caption"
        assert table.children[0].words
        scopes = {one.attributes.get("scope") for one in table.all("th")}
        assert scopes <= {"col", "row", "rowgroup"}
        assert {"col", "row"} <= scopes
    charts = page.root.all("svg")
    assert len(charts) == 6
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert [one.tag for one in chart.children[:2]] == ["title", "desc"]
        labels = chart.attributes["aria-labelledby"].split()
        assert labels == [one.attributes["id"] for one in chart.children[:2]]
        assert all(one.words for one in chart.children[:2])
    idents = [one.attributes["id"] for one in page.root.walk() if "id" in one.attributes]
    assert len(idents) == len(set(idents))
    assert page.root.all("html")[0].attributes["lang"] == "en"


def test_series_differ_by_more_than_colour(page: Page) -> None:
    chart = page.section("cells").all("svg")[0]
    drawn = [group for group in chart.all("g") if len(group.all("path")) > 2]
    assert len(drawn) == 3
    lines = [g.all("path")[0].attributes["stroke-dasharray"] for g in drawn]
    shapes = [g.all("path")[1].attributes["d"] for g in drawn]
    assert len(set(lines)) == 3
    assert len(set(shapes)) == 3


def test_the_chart_by_share_has_the_mean_of_intents(page: Page) -> None:
    chart = page.section("cells").all("svg")[0]
    told = chart.all("desc")[0].words
    # The tenth: 0.1, 0.3 and 0.2 of the three intents.
    assert "stillwatch: 20.0% at 10%; 50.0% at 25%; 73.3% at 50%; 90.0% at 100%." in told
    assert page.section("cells").all("svg")[0].all("title")[0].words == (
        "Recall by share of attack prompts, known traffic, 0.3% false positives"
    )


@pytest.mark.parametrize("gap", [None, NAN])
def test_a_line_is_broken_where_a_point_is_missing(gap: float | None) -> None:
    axis = Axis("x", ((0.0, "0"), (1.0, "1")))
    whole = Series("a", [(0.0, 0.1), (0.2, 0.2), (0.4, 0.3), (0.8, 0.3)])
    broken = Series("a", [(0.0, 0.1), (0.2, gap), (0.4, 0.3), (0.8, 0.3)])
    counts = []
    for series in (whole, broken):
        root = Page(line_chart("c", "title", [series], axis, axis)).root
        path = next(e for e in root.all("path") if "line" in e.attributes.get("class", ""))
        assert "nan" not in path.attributes["d"].lower()
        counts.append(path.attributes["d"].count("M"))
    assert counts == [1, 2]


def test_a_dense_curve_is_thinned_but_keeps_its_ends() -> None:
    axis = Axis("x", ((0.0, "0"), (1.0, "1")))
    series = Series("a", [(n / 9998, 1 - n / 9998) for n in range(9999)])
    root = Page(line_chart("c", "title", [series], axis, axis)).root
    path = next(e for e in root.all("path") if "line" in e.attributes.get("class", ""))
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", path.attributes["d"])
    assert 100 < len(points) < 200
    assert (points[0], points[-1]) == (("50.0", "10.0"), ("378.0", "230.0"))


MISSING = {
    "methods": ("methods", "Recall: not measured."),
    "curves": ("curves", "Precision and recall: not measured."),
    "prevalence": ("curves", "Prevalence: not measured."),
    "detection": ("prompts", "100% not measured not measured"),
    "reliability": ("risk", "ECE: not measured. Reliability diagram: not measured."),
    "ordinary_by_kind": ("false", "by kind of account: not measured."),
    "ordinary_by_language": ("false", "by language: not measured."),
    "attacks_by_language": ("found", "by language: not measured."),
    "attacks_by_family": ("found", "by attack family: not measured."),
    "evidence": ("evidence", "25% not measured not measured"),
    "worst": ("worst", "False flags: not measured. Missed: not measured."),
}


@pytest.mark.parametrize("part", MISSING)
@pytest.mark.parametrize("how", ["absent", "none", "empty"])
def test_a_missing_part_is_said_and_the_rest_stays(tmp_path: Path, part: str, how: str) -> None:
    own = results()
    ident, told = MISSING[part]
    assert told not in page_of(own, tmp_path).section(ident).words
    for name in ("known", "new"):
        if how == "absent":
            del own["settings"][name][part]
        else:
            own["settings"][name][part] = None if how == "none" else {}
    page = page_of(own, tmp_path)
    assert told in page.section(ident).words
    assert page.rows("Evasions")


@pytest.mark.parametrize("part", ["evasions", "positions", "shares"])
def test_a_missing_part_of_robustness_is_said(tmp_path: Path, part: str) -> None:
    own = results()
    del own["robustness"][part]
    assert page_of(own, tmp_path).section("robustness").words.count("not measured") == 1


def test_without_robustness_it_is_said(tmp_path: Path) -> None:
    own = results()
    del own["robustness"]
    assert "not measured" in page_of(own, tmp_path).section("robustness").words


def test_without_baselines_there_is_no_comparison(tmp_path: Path) -> None:
    own = results()
    for name in ("known", "new"):
        methods = own["settings"][name]["methods"]
        own["settings"][name]["methods"] = {"stillwatch": methods["stillwatch"]}
    page = page_of(own, tmp_path)
    section = page.section("cells")
    assert section.words.count("Baselines: not measured.") == 2
    assert "ahead" not in section.words
    assert len(page.rows("Recall by intent and share of attack prompts, known")) == 6


@pytest.mark.parametrize(
    "own",
    [{}, {"settings": None}, {"settings": {"known": {}}}, {"shares": [1.0], "intents": ["one"]}],
)
def test_with_almost_nothing_every_section_says_so(tmp_path: Path, own: dict[str, Any]) -> None:
    page = page_of(own, tmp_path)
    for ident in (
        "tested",
        "methods",
        "cells",
        "prompts",
        "curves",
        "risk",
        "false",
        "found",
        "evidence",
        "robustness",
        "worst",
    ):
        assert "not measured" in page.section(ident).words


def test_what_was_read_back_from_json_gives_the_same_page(tmp_path: Path) -> None:
    own = with_prompts("a\u202eb")
    again = json.loads(json.dumps(own))
    assert text_of(own, tmp_path) == text_of(again, tmp_path)
