"""The report of an evaluation: what it says, and that nothing in it can reach out or take over."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stillwatch.training.benchmark.charts import Axis, Series, line_chart
from stillwatch.training.benchmark.report import (
    MARKED_RATIO,
    SHOWN_CHARACTERS,
    visible,
)
from tests.training.report_support import (
    NAN,
    Page,
    page_of,
    results,
    text_of,
    with_prompts,
)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return page_of(results(), tmp_path)


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
