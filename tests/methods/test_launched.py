"""Variables of launchers: what a cluster sets for every job hangs nothing, and what is wrong is said."""

import socket
import subprocess
import sys

import pytest

from densebench.core.errors import UsageError
from densebench.methods import distributed
from densebench.methods.distributed import ProcessGroup, process_group

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _none_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def join():
    with process_group("cpu") as (group, _):
        return group


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_a_world_size_without_a_launcher_trains_alone_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert join() == ProcessGroup()
    assert "WORLD_SIZE=4 is left alone, since RANK, MASTER_ADDR, MASTER_PORT are not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "x"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "-1"), ("RANK", "²")]
)
def test_what_is_no_number_is_said(monkeypatch, name, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}={value!r}: expected a number"):
        join()


def test_processes_that_never_come_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(distributed, "MEETING", 1.0)
    for name, value in zip(VARIABLES, ("2", "0", "0", "127.0.0.1", free_port()), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="WORLD_SIZE=2, but the processes did not meet within 1 s"):
        join()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="RANK=2 and WORLD_SIZE=2"):
        join()


def test_processes_that_come_form_a_group(monkeypatch):
    code = (
        "from densebench.methods.distributed import process_group\n"
        "with process_group('cpu') as (group, where):\n"
        "    print(group.rank, group.average({'rank': float(group.rank)}, where))\n"
    )
    for name, value in zip(VARIABLES, ("2", "0", "0", "127.0.0.1", free_port()), strict=True):
        monkeypatch.setenv(name, value)
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    monkeypatch.setenv("RANK", "1")
    second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.communicate(timeout=120)[0] == "0 {'rank': 0.5}\n"
    assert second.communicate(timeout=120)[0] == "1 {'rank': 0.5}\n"
