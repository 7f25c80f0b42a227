"""Locks where the file system has them, and where it refuses them as many network file systems do."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densebench.core.errors import UsageError
from densebench.core.locks import Timeout, lock
from densebench.core.paths import claim

TAKE = """
import errno, fcntl, os, sys
from pathlib import Path
def refuse(file, operation): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
from densebench.core.locks import lock
held = lock(Path(sys.argv[1])).acquire()
os._exit(9)
"""


@pytest.fixture(params=[None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def refusal(request, monkeypatch):
    """A file system with locks, and three that refuse them each in its way."""
    if request.param is not None:

        def refuse(file, operation):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_one_at_a_time(tmp_path, refusal, capsys):
    with lock(tmp_path / "x.lock"):
        with pytest.raises(Timeout):
            lock(tmp_path / "x.lock", 0).acquire()
        with lock(tmp_path / "y.lock", 0):
            pass
    with lock(tmp_path / "x.lock", 0):
        pass
    said = capsys.readouterr().err
    assert said.count("takes no locks") == (refusal is not None)
    assert str(tmp_path) in said or refusal is None


def test_a_folder_is_claimed_by_one(tmp_path, refusal):
    with claim(tmp_path / "out", "training"):
        with pytest.raises(UsageError, match="another process is training in"), claim(tmp_path / "out", "training"):
            pass
        (tmp_path / "out" / "x").touch()
    with claim(tmp_path / "out", "training"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_taken_over(tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    left = subprocess.run([sys.executable, "-c", TAKE, str(tmp_path / "x.lock")], env=environment, check=False)
    assert left.returncode == 9
    assert (tmp_path / "x.lock.held").exists()

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(tmp_path / "x.lock", 20):
        pass
