"""Leases: one holder at a time, free again when it is gone, on file systems of every kind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from densebench.core import leases
from densebench.core.leases import Lease, LeaseTaken, holder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
HOLD = """
import sys, time
from pathlib import Path
from densebench.core.leases import Lease
Lease(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""
COUNT = """
import sys, time
from pathlib import Path
from densebench.core.leases import Lease, LeaseTaken
folder = Path(sys.argv[1])
for cell in range(20):
    done = folder / f"{cell}.done"
    try:
        with Lease(folder / f"{cell}.lease").acquire(blocking=False):
            if not done.exists():
                with open(folder / "log", "a") as log:
                    log.write(f"{cell}\\n")
                time.sleep(0.01)
                done.touch()
    except LeaseTaken:
        pass
"""


@pytest.fixture(params=["links", "no links"])
def kind(request, monkeypatch):
    """A file system with hard links, and one without."""
    if request.param == "no links":

        def refuse(source, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


def taken(path):
    try:
        Lease(path).acquire(blocking=False).release()
    except LeaseTaken:
        return True
    return False


def test_one_at_a_time(tmp_path, kind):
    path = tmp_path / "cell"
    with Lease(path) as held:
        assert taken(path)
        assert not held.lost
        assert holder(path).endswith(f", process {os.getpid()}")
        assert not taken(tmp_path / "other")
    assert not taken(path)
    assert holder(path) == ""
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_gets_it_when_it_is_given_back(tmp_path, kind):
    path = tmp_path / "cell"
    held = Lease(path).acquire()
    threading.Timer(0.3, held.release).start()
    start = time.monotonic()
    with Lease(path):
        assert time.monotonic() - start > 0.2


def test_what_a_killed_process_of_this_machine_held_is_free_at_once(tmp_path, kind):
    path = tmp_path / "cell"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], env=ENVIRONMENT, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert taken(path)
    process.kill()
    process.wait()
    assert path.exists()
    assert not taken(path)


def other_machine(path, **fields):
    path.write_text(json.dumps({"token": "x", "host": "node7", "boot": "b", "pid": 1, "born": "1"} | fields))


def test_a_lease_of_another_machine_is_free_only_when_nobody_touches_it(tmp_path, kind):
    path = tmp_path / "cell"
    other_machine(path)
    assert taken(path)
    assert holder(path) == "node7, process 1"
    old = time.time() - leases.STALE - 5
    os.utime(path, (old, old))
    assert not taken(path)


def test_process_numbers_of_another_start_of_the_machine_say_nothing(tmp_path):
    path = tmp_path / "cell"
    own = leases._identity()
    other_machine(path, **own | {"boot": "another", "pid": 2**22 + 1})
    assert taken(path)
    other_machine(path, **own | {"pid": 2**22 + 1})  # which no process has
    assert not taken(path)
    other_machine(path, **own | {"born": "1"})  # the number of this process, which began at another time
    assert not taken(path)


def test_a_holder_touches_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(Lease, "_beating", None)
    path = tmp_path / "cell"
    with Lease(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 0


def test_a_holder_that_was_taken_for_dead_finds_out_and_takes_nothing_back(tmp_path):
    path = tmp_path / "cell"
    held = Lease(path).acquire()
    old = time.time() - leases.STALE - 5
    os.utime(path, (old, old))
    with Lease(path).acquire(blocking=False) as other:
        assert held.lost
        held.release()
        assert not other.lost
        assert taken(path)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "many"}'])
def test_a_lease_that_is_torn_is_one_until_it_is_old(tmp_path, content):
    path = tmp_path / "cell"
    path.write_bytes(content)
    assert taken(path)
    os.utime(path, (0, 0))
    assert not taken(path)


def test_eight_processes_do_each_piece_once(tmp_path):
    command = [sys.executable, "-c", COUNT, str(tmp_path)]
    processes = [subprocess.Popen(command, env=ENVIRONMENT) for _ in range(8)]
    assert [process.wait(120) for process in processes] == [0] * 8
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(20))
    assert not [path for path in tmp_path.iterdir() if "lease" in path.name]
