"""`run --pictures N` and `show result ID --open`."""

import subprocess

import pytest

from densebench.cli import viewer
from densebench.core.bounds import MOST_PICTURES
from densebench.runner.request import Request, checked
from tests.cli.test_run import cli, records  # noqa: F401  (a fixture)

ONE = ["--protocol", "hummingbird", "--set", "hummingbird.fractions=[1]", "--set", "hummingbird.input_size=64"]


def pictures_of(place, number):
    done = place("run", "--model", "mine.py:ColorBackbone", "--dataset", "voc", "--data-root", "data", *ONE,
                 "--workers", "0", "--overwrite", "--pictures", str(number))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = records(place.folder).values()
    return record, [name.rpartition("/")[2] for name in record["artifacts"] if name.endswith(".png")]


def test_pictures_are_as_many_as_asked_for_and_no_part_of_the_hash(cli, monkeypatch):  # noqa: F811
    shown = []
    from densebench.protocols.hummingbird import protocol

    class Counted(protocol.ClassExamples):
        def draw(self):
            shown.append(len(self.predictions))
            return super().draw()

    monkeypatch.setattr(protocol, "ClassExamples", Counted)
    none, drawn = pictures_of(cli, 0)
    assert (drawn, shown) == ([], [0])
    two, drawn = pictures_of(cli, 2)
    assert (sorted(drawn), shown) == (["examples.png", "neighbours.png"], [0, 2])
    assert none["score_hash"] == two["score_hash"]

    opened = []
    monkeypatch.setattr(viewer, "find_viewer", lambda: ["eog"])
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: opened.append(command))
    page = cli("show", "result", two["score_hash"][:6], "--open")
    assert page.returncode == 0
    assert page.stdout == cli("show", "record", two["score_hash"][:6]).stdout
    assert sorted(path.rpartition("/")[2] for _, path in opened) == ["examples.png", "neighbours.png"]
    assert all(name in page.stdout for name in two["artifacts"])

    monkeypatch.setattr(viewer, "find_viewer", list)
    page = cli("show", "result", two["score_hash"], "--open")
    assert (page.returncode, len(opened)) == (1, 2)
    assert "no viewer of pictures" in page.stderr
    assert "examples.png" in page.stdout


@pytest.mark.parametrize("number", ["-1", str(MOST_PICTURES + 1)])
def test_a_number_of_pictures_that_means_nothing_is_refused(number, cli):  # noqa: F811
    done = cli("run", "--model", "pico", "--protocol", "hummingbird", "--dataset", "scenes", "--pictures", number)
    assert done.returncode == 2
    assert f"--pictures {number}: expected at least 0, at most {MOST_PICTURES}" in done.stderr


def test_open_goes_with_a_result_only(cli):  # noqa: F811
    done = cli("show", "model", "pico", "--open")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--open goes with a result" in done.stderr


def test_only_pictures_beside_the_record_are_opened(tmp_path):
    outside, folder = tmp_path / "out.png", tmp_path / "records"
    folder.mkdir()
    for path in (outside, folder / "a.png"):
        path.write_bytes(viewer.PNG + b"...")
    (folder / "b.png").write_text("#!/bin/sh")
    (folder / "c.png").symlink_to(outside)
    names = ["a.png", "b.png", "c.png", "../out.png", str(outside), "no\0name.png", "missing.png", "a.csv"]
    assert viewer.pictures_beside(folder / "record.json", names) == [(folder / "a.png").resolve()]


def test_without_a_screen_there_is_no_viewer(monkeypatch):
    monkeypatch.setattr(viewer.sys, "platform", "linux")
    monkeypatch.setattr(viewer.shutil, "which", lambda name: f"/bin/{name}")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert viewer.find_viewer() == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert viewer.find_viewer() == ["/bin/xdg-open"]


def test_the_request_of_python_has_the_same_number():
    assert checked(Request(model=("pico",), dataset=("scenes",), pictures=3)).pictures == 3
