"""The page: what it holds, and that nothing of the data can act."""

import hashlib
import html
import io
import json
import re
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.core.errors import StorageError, UsageError
from densebench.leaderboard import leaderboard_rows, published_rows, write_leaderboard
from densebench.leaderboard.page import page, payload, pictures
from densebench.leaderboard.page.facts import pretraining
from densebench.leaderboard.page.render import FOLDER, SCRIPTS, as_script
from densebench.leaderboard.ranked import ranked
from densebench.results.compare import paired
from densebench.results.counts import ImageStatistics
from densebench.results.store import ResultStore
from densebench.results.sums import Side
from tests.leaderboard.conftest import hummingbird, metric, overclustering

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u2028{{ 7 * 7 }}<!--"


def held(text: str) -> dict:
    """Return what a page holds, read as a browser reads it."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def columns(made: dict, what: str) -> list[dict]:
    return [dict(zip(made[what], each, strict=True)) for each in zip(*made[what].values(), strict=True)]


def values_of(made: dict, name: str) -> dict[str, dict]:
    """Return the values of a model by metric."""
    lines = [i for i, place in enumerate(made["lines"]["model"]) if made["models"][place]["name"] == name]
    return {made["metrics"][each["metric"]]["label"]: each for each in columns(made, "values") if each["line"] in lines}


def test_a_page_holds_every_value_with_interval_rank_and_unit(record):
    records = [record(name, hummingbird(top), version=2) for name, top in (("a", 50), ("b", 51), ("c", 60))]
    made = payload(ranked(leaderboard_rows(records), "none", records), records)
    found = values_of(made, "c")
    assert found["miou@1/8"]["value"] == 55
    assert (found["miou@1/8"]["low"], found["miou@1/8"]["high"]) == (54, 56)
    assert {name: values_of(made, name)["miou@1"]["rank"] for name in "abc"} == {"c": 1, "a": 2, "b": 2}
    assert [m["main"] for m in made["metrics"] if m["label"] == "miou_hungarian@1"] == [False]


def test_costs_are_those_of_the_record_and_of_several_seeds_their_mean(record):
    def costly(seed, seconds):
        one = record("a", hummingbird(50), seed=seed, score_hash=f"{seed:032x}")
        cost = one.cost.model_copy(update={"seconds": {"total": seconds}, "images_per_second": 10.0 * (seed + 1)})
        model = one.model.model_copy(update={"parameters": 22_056_576})
        return one.model_copy(update={"cost": cost, "model": model})

    records = [costly(0, 10.0), costly(1, 20.0)]
    made = payload(leaderboard_rows(records), records)
    (line,) = columns(made, "lines")
    assert (line["seconds"], line["speed"], line["memory"]) == (15, 15, 1)
    assert made["models"][0]["parameters"] == 22_056_576
    assert made["models"][0]["size"] == "ViT-S"


def test_pretraining_is_the_catalogues_the_cards_or_not_known():
    assert "LVD" in pretraining("dinov2_vits14")["data"]
    assert pretraining("paka_pico") == {"data": "scenes", "objective": "paka"}
    assert pretraining("timm/vit_small_patch16_224?random=1")["objective"] == "none"
    assert pretraining("../../mine")["data"] == "not known"


def test_published_rows_stand_beside_results_of_their_protocol_and_are_not_ranked(record):
    records = [record("a", hummingbird(50)), record("b", overclustering(40), dataset="mine", protocol="overclustering")]
    made = payload(leaderboard_rows(records), records, published_rows())
    lines = columns(made, "lines")
    printed = {made["models"][line["model"]]["name"]: i for i, line in enumerate(lines) if line["status"] == 2}
    assert made["statuses"][2] == "published"
    assert {made["tables"][lines[i]["table"]]["data"] for i in printed.values()} == {"voc"}
    theirs = [value for value in columns(made, "values") if value["line"] in printed.values()]
    assert all(value["rank"] is None and value["printed"] for value in theirs)
    facts = made["models"][lines[printed["DINO ViT-S/16 (PaKA)"]]["model"]]
    assert facts["size"] == "ViT-S"
    assert "ImageNet" in facts["data"]
    near = {table["data"]: table["beside"] for table in made["tables"]}
    assert near["voc"]["paper"] == "published at preset paper: the same settings"
    assert "dip" in near["voc"]
    assert near["mine"] == {}


def test_published_rows_beside_a_part_of_the_data_say_so(record):
    part = record("a", hummingbird(50), n_images=120)
    part = part.model_copy(
        update={"data": part.data.model_copy(update={"val": part.data.val.model_copy(update={"n_published": 1449})})}
    )
    made = payload(leaderboard_rows([part]), [part], published_rows())
    settings = {made["texts"][line["setting"]] for line in columns(made, "lines") if line["status"] == 2}
    assert settings
    assert all(setting.endswith(", on the whole dataset") for setting in settings)


def test_a_withdrawn_version_stays_marked_and_leaves_the_ranking(record):
    records = [record("a", hummingbird(50), version=1), record("b", hummingbird(40)), record("c", hummingbird(30))]
    made = payload(ranked(leaderboard_rows(records), "none", records), records)
    status = {made["models"][x["model"]]["name"]: made["statuses"][x["status"]] for x in columns(made, "lines")}
    assert status == {"a": "withdrawn", "b": "measured here", "c": "measured here"}
    assert values_of(made, "a")["miou@1"]["rank"] is None
    assert values_of(made, "b")["miou@1"]["rank"] == 1


def test_a_record_of_another_processor_was_measured_elsewhere(record):
    one, other = record("a", hummingbird(50), version=2), record("b", hummingbird(40), version=2)
    other = other.model_copy(update={"environment": {"cpu": "theirs, 8 cores"}})
    one = one.model_copy(update={"environment": {"cpu": "ours, 2 cores"}})
    made = payload(leaderboard_rows([one, other]), [one, other], here="ours, 2 cores")
    assert sorted(made["statuses"][line["status"]] for line in columns(made, "lines")) == [
        "measured elsewhere",
        "measured here",
    ]


def test_classes_are_embedded_within_a_budget_that_the_page_names(record, monkeypatch):
    records = [
        record(name, (metric("miou", 50, per_class={"cat": 40.0, "dog": None}),), dataset=data)
        for name in "abc"
        for data in ("x", "y")
    ]
    rows = leaderboard_rows(records)
    made = payload(rows, records)
    assert made["classes"]["names"] == [["cat", "dog"]]
    assert made["classes"]["lines"]["0"] == {"miou": [0, [40, None]]}
    assert made["omitted"] == []
    monkeypatch.setattr("densebench.leaderboard.page.extras.CLASS_VALUES", 8)
    made = payload(rows, records)
    kept = {made["tables"][made["lines"]["table"][int(i)]]["data"] for i in made["classes"]["lines"]}
    assert (len(made["classes"]["lines"]), kept) == (4, {"x", "y"})
    assert made["omitted"] == ["values per class of 2 of 6 results, the lower ranks"]
    assert "Left out" in page(made, rows)
    assert "values per class of 2 of 6 results" in page(made, rows)


def test_curves_over_layers_are_those_of_sweeps(record):
    reads = [{"layer": i, "facet": "key", "ablation": False, "miou": 10.0 + i} for i in range(3)]
    one = record("a", (metric("miou", 12, facet="key"),), protocol="positional_effect")
    one = one.model_copy(update={"facts": {"reads": reads, "best": {"key": {"layer": 2}}}})
    (curve,) = payload(leaderboard_rows([one]), [one])["layers"]
    assert curve == {
        "line": 0, "quantity": "miou", "facet": "key", "depth": 12, "best": 3,
        "points": [[1, 10], [2, 11], [3, 12]],
    }  # fmt: skip


def picture(width: int = 64, height: int = 32) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def side(values: list[float]) -> Side:
    """Return a metric that is a mean over images."""
    entry = ImageStatistics(
        kind="mean",
        name="rmse",
        arrays={"image": np.arange(len(values), dtype=np.uint8), "value": np.array(values)},
    )
    return Side(tuple(map(str, range(len(values)))), (entry,))


def depths(record, names: str) -> list:
    return [
        record(name, (metric("rmse", i, None, unit="m", higher_is_better=False),), protocol="depth")
        for i, name in enumerate(names)
    ]


def test_paired_differences_are_those_of_compare(record):
    records, chance = depths(record, "abc"), np.random.default_rng(0)
    kept = {name: side(list(chance.normal(i, 1, 20))) for i, name in enumerate("abc")}
    made = payload(leaderboard_rows(records), records, sides=lambda runs, _: kept[runs[0].model.name])
    names = [made["models"][place]["name"] for place in made["lines"]["model"]]
    found = {(names[pair["a"]], names[pair["b"]]): pair for pair in columns(made, "pairs")}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    expected = paired(kept["a"], kept["c"])
    assert found["a", "c"]["difference"] == pytest.approx(expected.difference, rel=1e-3)
    assert found["a", "c"]["low"] == pytest.approx(expected.low, rel=1e-3)
    assert found["a", "c"]["p"] == pytest.approx(expected.p, rel=1e-2)
    assert made["metrics"][found["a", "c"]["metric"]]["label"] == "rmse"


def test_pairs_beyond_the_bound_are_said_and_the_best_come_first(record, monkeypatch):
    records = depths(record, "abc")
    monkeypatch.setattr("densebench.leaderboard.page.pairs.PAIRS", 1)
    made = payload(leaderboard_rows(records), records, sides=lambda *_: side([1.0, 2.0, 3.0]))
    assert [(pair["a"], pair["b"]) for pair in columns(made, "pairs")] == [(0, 1)]
    assert made["omitted"] == ["paired differences but for 1: `densebench compare` makes them"]


def test_models_that_keep_nothing_of_their_images_have_no_paired_difference(record):
    def refuse(*_):
        raise UsageError("nothing is kept")

    def broken(*_):
        raise StorageError("statistics.npz is torn")

    records, told = depths(record, "abc"), []
    rows = leaderboard_rows(records)
    assert payload(rows, records, sides=refuse)["pairs"]["a"] == []
    assert payload(rows, records, sides=broken, report=told.append)["pairs"]["a"] == []
    assert told == ["statistics.npz is torn; its differences are not on the page."] * 3  # once for each model


def test_pictures_are_small_files_in_the_page(record):
    one = record("a", hummingbird(50)).model_copy(update={"artifacts": ("a/examples.png", "a/statistics.npz")})
    made = payload(leaderboard_rows([one]), [one], read=lambda _, name: picture(3000, 100))
    ((name, uri),) = made["pictures"]["0"]
    assert name == "examples.png"
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(b64decode(content))).size == (pictures.SIDE, pictures.SIDE * 100 // 3000)


def test_pictures_take_turns_within_the_budget_and_those_left_out_are_said(record, monkeypatch):
    records = [record(n, hummingbird(50)).model_copy(update={"artifacts": ("1.png", "2.png")}) for n in "ab"]
    size = len(pictures.thumbnail(picture()))
    monkeypatch.setattr(pictures, "BUDGET", 3 * size)
    made = payload(leaderboard_rows(records), records, read=lambda *_: picture())
    assert sorted(len(each) for each in made["pictures"].values()) == [1, 2]
    assert made["omitted"] == ["1 picture, beside the records"]


def test_every_table_has_a_picture_before_one_has_two(record, monkeypatch):
    records = [
        record(n, hummingbird(50), dataset=data).model_copy(update={"artifacts": ("1.png",)})
        for data in "xy"
        for n in "ab"
    ]
    monkeypatch.setattr(pictures, "BUDGET", 2 * len(pictures.thumbnail(picture())))
    made = payload(leaderboard_rows(records), records, read=lambda *_: picture())
    assert {made["lines"]["table"][int(line)] for line in made["pictures"]} == {0, 1}


def test_no_picture_is_opened_once_the_budget_is_spent(record, monkeypatch):
    records = [record(f"m{i}", hummingbird(50)).model_copy(update={"artifacts": ("1.png",)}) for i in range(9)]
    monkeypatch.setattr(pictures, "BUDGET", len(pictures.thumbnail(picture())) + 1)
    read = []
    payload(leaderboard_rows(records), records, read=lambda one, _: read.append(one) or picture())
    assert len(read) == 2


def test_a_long_text_is_cut(record):
    one = record("a", hummingbird(50)).model_copy(update={"notes": ("x" * 10_000_000,)})
    rows = leaderboard_rows([one])
    assert len(page(payload(rows, [one]), rows)) < 200_000


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg onload='alert(1)'/>", picture()[:200]])
def test_what_is_no_picture_is_told_and_left_out(record, content):
    one = record("a", hummingbird(50)).model_copy(update={"artifacts": ("x.png",)})
    told = []
    made = payload(leaderboard_rows([one]), [one], read=lambda *_: content, report=told.append)
    assert made["pictures"] == {}
    assert "x.png is not on the page" in told[0]


def test_an_absurd_picture_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="64 by 32 pixels"):
        pictures.thumbnail(picture())


def test_no_picture_is_read_from_outside_of_a_records_folder(record, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())
    store = ResultStore(tmp_path / "results")
    one = record("a", hummingbird(50)).model_copy(update={"artifacts": ("../../../../secret.png", "in.png")})
    store.write(store.place(one), one)
    (store.place(one).parent / "in.png").write_bytes(picture())
    told = []
    (file,) = write_leaderboard(tmp_path / "results", ["html"], report=told.append)
    assert [name for name, _ in held(file.read_text())["pictures"]["0"]] == ["in.png"]
    assert "outside of the record's folder" in told[0]


def hostile_page(record) -> str:
    one = record(
        HOSTILE,
        (metric("miou", 50, per_class={HOSTILE: 1.0}), metric("=cmd|' /C calc'!A0", 50)),
        dataset=HOSTILE,
        settings={"note": HOSTILE},
    )
    model = one.model.model_copy(update={"licence": HOSTILE, "citation": HOSTILE})
    one = one.model_copy(update={"model": model, "notes": (HOSTILE,), "environment": {"cpu": HOSTILE}})
    rows = leaderboard_rows([one])
    return page(payload(rows, [one]), rows, name=HOSTILE)


def test_no_text_of_the_data_becomes_markup(record):
    text = hostile_page(record)
    assert len(re.findall("<script", text)) == 2  # the data and ours
    assert len(re.findall("</script", text)) == 2
    assert "<img" not in text
    assert "<!--" not in text.partition("<script>")[0]
    assert "\x1b" not in text
    assert "49" not in re.findall(r"<title>(.*?)</title>", text)[0]
    made = held(text)
    assert made["models"][0]["name"].startswith("</script><script>alert(1)</script>")  # shown as it is


def test_json_in_a_script_element_holds_no_tag_and_is_the_same():
    value = {"a": ["<!--", "</SCRIPT>", "&lt;", "\u2028\u2029", "é\ud800"], "<": 1}
    text = as_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script(float("nan"))


def test_the_policy_of_the_page_names_the_script_and_style_that_are_in_it(record):
    text = hostile_page(record)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    parts = dict(part.split(" ", 1) for part in html.unescape(policy).split("; "))
    assert parts["default-src"] == "'none'"
    assert parts["img-src"] == "data:"
    for what, tag in (("script-src", "script"), ("style-src", "style")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert parts[what] == f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_our_scripts_make_no_markup_of_text_and_ask_for_nothing():
    files = {path.stem: path.read_text() for path in (FOLDER / "js").glob("*.js")}
    assert set(files) == set(SCRIPTS)
    forbidden = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "fetch(",
                 "XMLHttp", "import(", "</", "<!--", "localStorage")  # fmt: skip
    for name, text in files.items():
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not [word for word in (*forbidden, "http:", "https:") if word in text], name
    assert not re.findall(r"url\(|@import|https?:", (FOLDER / "page.css").read_text())


def test_values_that_are_not_finite_are_no_numbers_of_json(record):
    one = record("a", (metric("miou", float("nan"), None),))
    made = payload(leaderboard_rows([one]), [one])
    assert made["values"]["value"] == [None]
    assert made["values"]["rank"] == [None]
    page(made)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), True, 10**400, ""])
def test_an_absurd_coordinate_or_cost_costs_no_page(record, odd):
    one = record("a", (metric("pck", 50, alpha=odd), metric("pck", 40, alpha=0.1)), protocol="correspondence")
    cost = one.cost.model_copy(update={"seconds": {"total": float("inf")}, "images_per_second": float("nan")})
    one = one.model_copy(update={"cost": cost})
    rows = leaderboard_rows([one])
    (line,) = columns(held(page(payload(rows, [one]), rows)), "lines")
    assert (line["seconds"], line["speed"]) == (None, None)


def test_without_javascript_there_is_a_table_of_every_model(record):
    records = [record("a<b>", hummingbird(50)), record("c", hummingbird(60))]
    rows = leaderboard_rows(records)
    (static,) = re.findall(r"<noscript>(.*?)</noscript>", page(payload(rows, records), rows), re.DOTALL)
    assert static.count('<th scope="row">') == 2
    assert "a&lt;b&gt;" in static
    assert "<strong>60.0</strong>" in static


def test_static_tables_are_bounded_and_the_others_named(record, monkeypatch):
    records = [record("a", hummingbird(50), dataset=data) for data in ("x", "y")]
    rows = leaderboard_rows(records)
    monkeypatch.setattr("densebench.leaderboard.page.render.STATIC_CELLS", 5)
    (static,) = re.findall(r"<noscript>(.*?)</noscript>", page(payload(rows, records), rows), re.DOTALL)
    assert static.count("<table>") == 1
    assert "Not shown without JavaScript: hummingbird on y, preset paper." in static


def test_a_folder_without_complete_results_has_a_page_that_says_so():
    assert "No complete results yet" in page(payload([]), [])


def test_the_command_writes_one_file_and_the_same_records_give_the_same(record, tmp_path, capsys):
    store = ResultStore(tmp_path / "results")
    for name in "ab":
        one = record(name, hummingbird(50))
        store.write(store.place(one), one)
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            main(["leaderboard", "--results", str(tmp_path / "results"), "--format", "html"])
        assert not end.value.code
        assert capsys.readouterr().out.split() == [str(tmp_path / "results" / "leaderboard.html")]
    first = (tmp_path / "results" / "leaderboard.html").read_bytes()
    write_leaderboard(tmp_path / "results", ["html"])
    assert (tmp_path / "results" / "leaderboard.html").read_bytes() == first
    assert not list((tmp_path / "results").glob("*.js"))
    assert len(held(first.decode())["lines"]["table"]) > 2  # with those that papers print


def test_without_jinja2_the_command_says_what_to_install(record, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(Exception, match=re.escape("pip install 'densebench[page]'")):
        page(payload([]), [])


def test_the_files_of_the_page_are_small():
    files = [path for path in Path(FOLDER).rglob("*") if path.suffix in (".js", ".css", ".j2")]
    assert sum(path.stat().st_size for path in files) < 80_000
