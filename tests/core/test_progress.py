"""Progress where there is no terminal: a line per stage, and a heartbeat with what, how far and how long still."""

import re
import threading
import time

from densebench.core.progress import Progress, duration


def wait_for(capsys, pattern: str) -> str:
    text, deadline = "", time.time() + 30
    while time.time() < deadline:
        text += capsys.readouterr().err
        if found := re.search(pattern, text):
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"{pattern!r} never came: {text}")


def test_a_heartbeat_says_what_how_far_and_how_long(capsys):
    progress = Progress(every=0.05)
    with progress.cell("pico / depth / nyu", 2, 12, seconds=600, later=6000):
        for _ in progress.track(iter([0, 1]), "features", total=10):
            said = wait_for(capsys, r"pico / depth / nyu \(2 of 12\): features \d of 10 images; about .*\n")
    assert re.search(r"features \d of 10 images; about (9|10) min left of it, 110 min of all", said)
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_stage_that_is_slower_than_estimated_corrects_the_time_left(capsys):
    progress = Progress(every=0.05)
    with progress.cell("cell", 1, 1, seconds=0, later=0):
        for item in progress.track(iter(range(2)), "features", total=100_000):
            if item == 1:
                wait_for(capsys, r"features 1 of 100000 images; about .* left of it, .* of all")


def test_work_without_a_count_says_how_long_it_has_been_at_it(capsys):
    with Progress(every=0.05).cell("cell", 1, 1, seconds=0, later=0):
        wait_for(capsys, r"cell \(1 of 1\); 0 s so far")


def test_a_quiet_one_has_no_heartbeat(capsys):
    with Progress(quiet=True, every=0.01).cell("cell", 1, 1, seconds=0, later=0):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_times_are_in_the_unit_that_a_reader_would_choose():
    assert [duration(seconds) for seconds in (3, 300, 7200, 86400 * 5, 86400 * 3650)] == [
        "3 s", "5 min", "2.0 h", "5 days", "10 years",
    ]  # fmt: skip
