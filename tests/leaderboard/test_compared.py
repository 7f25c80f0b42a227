"""`densebench compare`: what names stand for, what is paired, what is said where nothing can be."""

import hashlib
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from densebench.cli import main
from densebench.core.errors import UsageError
from densebench.leaderboard.compared import compare
from densebench.leaderboard.published import published_rows
from densebench.results import counts
from densebench.results.schema import Metric, Record, StatisticsRecord
from densebench.results.store import ResultStore
from tests.leaderboard.conftest import MakeRecord
from tests.results.test_compare import confusions, means, segmentation

ROOT = Path(__file__).parents[1] / "results"
IDS = tuple(f"image{number}" for number in range(40))


class Folder:
    """A results folder whose records keep what each image adds."""

    def __init__(self, root, make: MakeRecord):
        self.store, self.make = ResultStore(root), make
        _, self.truth = confusions(len(IDS), 4, np.random.default_rng(0))

    def add(self, model, ease=0.0, *, entries=None, ids=IDS, names=("a", "b", "c", "d"), unit="%", **other) -> Record:
        """Write a record whose model is right more often the larger `ease`, and return it."""
        if entries is None:
            rng = np.random.default_rng(zlib.crc32(f"{model} {ease} {other.get('seed')}".encode()))
            tables, _ = confusions(len(IDS), 4, rng, ease, truth=self.truth)
            entries = [segmentation(tables[: len(ids)])]
        value = counts.value(entries)
        metric = Metric(
            name=entries[0].name, value=value, unit=unit, main=True, per_class=dict.fromkeys(names, 1.0),
            higher_is_better=unit == "%", ci95=(value - 1, value + 1),
        )  # fmt: skip
        other.setdefault("score_hash", f"{len(list(self.store.paths())):04x}{zlib.crc32(model.encode()):08x}")
        record = self.make(model, [metric], **other)
        path = self.store.place(record)
        file = f"{path.stem}/{counts.NAME}"
        content = counts.to_npz(ids, entries)
        kept = StatisticsRecord(file=file, n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        record = record.model_copy(update={"statistics": kept, "artifacts": (file,)})
        self.store.write(path, record, {file: content})
        return record

    def compare(self, *names, **other):
        return compare(*names, results=self.store.root, **other)

    def path(self, record):
        return self.store.place(record)

    def statistics(self, record):
        return self.path(record).parent / record.statistics.file


@pytest.fixture
def folder(tmp_path, record):
    return Folder(tmp_path / "results", record)


def test_two_models_are_paired_on_their_images(folder):
    a, b = folder.add("steady"), folder.add("better", 2.0)
    found = folder.compare("steady", "better")
    (line,) = found.lines
    assert line.difference == pytest.approx(b.metrics[0].value - a.metrics[0].value)
    assert (line.paired.n, line.winner, line.verdict) == (40, "b", "better is better")
    assert repr(found) == "Compared(steady / better: 1 value, 1 told apart)"
    frame = found.frame()
    assert frame[["metric", "verdict", "n"]].values.tolist() == [["miou", "better is better", 40]]
    assert found.classes()["class"].tolist() == ["a", "b", "c", "d"]
    (back,) = folder.compare("better", "steady").lines
    assert (back.winner, back.verdict) == ("a", "better is better")
    assert folder.compare("better", "better").lines[0].verdict == "the same on every image"


def test_lower_is_better_where_the_metric_says_so(folder):
    rng = np.random.default_rng(0)
    errors = rng.random(40)
    folder.add("far", entries=[means(errors + 1)], unit="m")
    folder.add("near", entries=[means(errors + 0.5 + rng.random(40) / 9)], unit="m")
    (line,) = folder.compare("far", "near").lines
    assert line.difference < 0
    assert line.verdict == "near is better"


def test_names_of_records_and_folders(folder, tmp_path, record):
    a, b = folder.add("one"), folder.add("two", 2.0)
    other = Folder(tmp_path / "other", record)
    other.add("one", 2.0)
    other.add("three")
    value = folder.compare("one", "two").lines[0].difference
    for names in (
        (a.score_hash[:6], b.score_hash),
        (str(folder.path(a)), folder.path(b)),
        (f"{folder.store.root}:one", "two"),
    ):
        assert folder.compare(*names).lines[0].difference == value
    found = compare(folder.store.root, other.store.root)
    (line,) = found.lines
    assert not found.several
    assert (line.model_a, line.model_b) == (f"{folder.store.root}:one", f"{other.store.root}:one")
    with pytest.raises(UsageError, match="holds 2 models; name one of them"):
        folder.compare("one", other.store.root)
    with pytest.raises(UsageError, match=r"did you mean 'three'"):
        folder.compare("one", f"{other.store.root}:thre")


@pytest.mark.parametrize("names", [("one", "twoo"), ("one",), (), ("one", "")])
def test_names_that_mean_nothing_are_refused(folder, names):
    folder.add("one")
    with pytest.raises(UsageError):
        folder.compare(*names)


def test_seeds_of_a_model_are_one_line(folder):
    for seed in (0, 1, 2):
        folder.add("one", seed=seed)
        folder.add("two", 0.8, seed=seed)
    (line,) = folder.compare("one", "two").lines
    assert line.paired.seeds == (3, 3)
    assert len(line.paired.by_seed) == 3
    assert line.paired.seed_sd > 0
    assert line.differences == ()


def test_another_setting_is_paired_and_said(folder):
    folder.add("one", config={"absent": "zero", "neighbours": 30})
    folder.add("two", 2.0, config={"absent": "skip", "neighbours": 1}, settings={"neighbours": 1})
    (line,) = folder.compare("one", "two").lines
    assert [each.field for each in line.differences] == ["absent", "neighbours"]
    assert line.verdict == "two scores better; settings differ"
    assert line.winner == "", "it is not the model alone"


def test_cells_of_one_table_are_compared_and_others_not(folder):
    folder.add("one", preset="paper")
    folder.add("one", 2.0, preset="dip")
    folder.add("two", 2.0, preset="paper")
    (line,) = folder.compare("one", "two").lines
    assert line.setting == "paper"
    assert folder.compare("one", "two", preset="dip").lines == ()
    assert folder.compare("one", "two", protocol="depth").lines == ()
    assert len(folder.compare("one", "two", protocol="hummingbird", dataset=["voc"]).lines) == 1


def test_the_images_that_both_saw(folder):
    folder.add("one", n_images=40, digest="v")
    folder.add("two", 2.0, n_images=25, digest="w", ids=IDS[:25])
    (line,) = folder.compare("one", "two").lines
    assert (line.paired.n, line.paired.left_out) == (25, (15, 0))
    assert line.differences[0].field == "images"


def test_classes_of_other_names_are_not_paired(folder):
    folder.add("one")
    folder.add("two", names=("a", "b", "c", "e"))
    (line,) = folder.compare("one", "two").lines
    assert (line.paired, line.reason) == (None, "their classes have other names")
    assert line.verdict.startswith("intervals ")


def damage_nothing(file, record):
    return record.model_copy(update={"statistics": None})


def damage_gone(file, record):
    file.unlink()


def damage_torn(file, record):
    file.write_bytes(file.read_bytes()[:100])


def damage_outside(file, record):
    kept = record.statistics.model_copy(update={"file": "../../../elsewhere.npz"})
    return record.model_copy(update={"statistics": kept})


def damage_value(file, record):
    return record.model_copy(update={"metrics": (record.metrics[0].model_copy(update={"value": 99.0, "ci95": None}),)})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_nothing, "no per-image statistics: run again with this version"),
        (damage_gone, "cannot be read"),
        (damage_torn, "is damaged, or of another run"),
        (damage_outside, "names a file that is not in its folder"),
        (damage_value, "not the value of its record"),
    ],
)
def test_what_is_kept_may_be_gone_or_damaged(folder, damage, said, capsys):
    folder.add("one")
    broken = folder.add("two", 2.0)
    changed = damage(folder.statistics(broken), broken)
    if changed:
        folder.store.write(folder.path(changed), changed)
    (line,) = folder.compare("one", "two").lines
    assert line.paired is None
    assert said in line.reason
    assert line.difference == pytest.approx(line.b - line.a)
    with pytest.raises(SystemExit) as end:
        main(["compare", "one", "two", "--out", str(folder.store.root)])
    assert end.value.code == 0
    assert "Not paired" in " ".join(capsys.readouterr().out.split())


def test_a_torn_record_is_named_and_the_others_compared(folder, caplog):
    folder.add("one")
    folder.path(folder.add("two", 2.0)).with_name("torn--paper--00.json").write_text("{")
    found = folder.compare("one", "two")
    assert len(found.lines) == 1
    assert "torn--paper--00.json" in caplog.text


def test_records_of_schema_1_have_nothing_to_pair(folder, capsys):
    old = next(path for path in (ROOT / "fixtures" / "schema1").rglob("*.json"))
    record = folder.store.read(old)
    folder.store.write(folder.store.place(record), record)
    other = record.model_copy(update={"model": record.model.model_copy(update={"name": "two"}), "score_hash": "ab" * 8})
    folder.store.write(folder.store.place(other), other)
    found = folder.compare(record.model.name, "two")
    assert found.lines
    assert {line.reason for line in found.lines} == {"no per-image statistics: run again with this version"}


def test_a_printed_value_stands_beside_ours(folder):
    row = next(row for row in published_rows("overclustering", "voc") if row.label == "PaKA ViT-S/14")
    metric = Metric(name=row.quantity, at=dict(row.at), value=row.value + 1, main=True, ci95=(row.value, row.value + 2))
    ours = folder.make("paka_vits14", [metric], protocol="overclustering", preset="paper", config={"absent": "skip"})
    folder.store.write(folder.store.place(ours), ours)
    (line,) = folder.compare("paka_vits14", "PaKA ViT-S/14").lines
    assert line.difference == pytest.approx(-1)
    assert line.model_b.startswith("PaKA ViT-S/14 (PaKA, table")
    assert line.paired is None
    assert "absent" in [each.field for each in line.differences]
    (other,) = folder.compare("paka_vits14", published=True).lines
    assert other.difference == pytest.approx(1), "ours less theirs"
    assert folder.compare("PaKA ViT-S/14", "paka_vits14").lines[0].differences[0].a == "zero"
    with pytest.raises(UsageError, match="both printed"):
        folder.compare("PaKA ViT-S/14", "NeCo ViT-S/14")


def run(folder, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, arguments), "--out", str(folder.store.root)])
    return end.value.code


def test_the_verb_prints_tables_json_and_a_picture(folder, capsys, tmp_path):
    for model, ease in (("one", 0.0), ("two", 2.0), ("three", 2.0)):
        folder.add(model, ease)
    assert run(folder, "one", "two", "--classes", "--plot", tmp_path / "f.png") == 0
    said = capsys.readouterr().out
    assert "two is better" in said
    assert "4 classes are tested" in said
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert run(folder, "one", "three", "--plot", tmp_path / "f.png") == 2, "nothing is replaced"
    assert run(folder, "one", "three", "--plot", tmp_path / "f.png", "--overwrite") == 0
    capsys.readouterr()
    assert run(folder, "one", "two", "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["winner"] == "two"
    assert len(line["classes"]) == 4
    assert run(folder, "one", "two", "three") == 0
    said = capsys.readouterr().out
    assert "(1)" in said
    assert "1 of 1" in said


def test_exit_codes(folder, capsys):
    folder.add("one")
    folder.add("two", dataset="ade20k")
    assert run(folder, "one", "two") == 1
    assert "one has hummingbird on voc (paper); two has hummingbird on ade20k" in capsys.readouterr().err
    assert run(folder, "one", "no_such") == 2
    assert run(folder, "one") == 2
    assert run(folder, "one", "two", "--plot", "f.jpg") == 2


def test_names_of_others_do_nothing(folder, capsys):
    hostile = "[bold]\x1b[31m$x\n"
    folder.add(hostile, names=(hostile, "b", "c", "$x$"))
    folder.add("two", 2.0, names=(hostile, "b", "c", "$x$"))
    assert run(folder, hostile, "two", "--classes", "--plot", folder.store.root / "f.png") == 0
    said = capsys.readouterr().out
    assert "\x1b[31m" not in said
    assert "[bold]?[31m" in said
    assert run(folder, hostile, "two", "--json") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_verb_needs_no_torch(folder):
    folder.add("one")
    folder.add("two", 2.0)
    code = (
        "import sys; from densebench.cli import main\n"
        f"try: main(['compare', 'one', 'two', '--out', {str(folder.store.root)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
