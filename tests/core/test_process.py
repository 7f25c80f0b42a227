"""A command ends when it is told to, cleans up after itself, and never fails for want of a place to print."""

import os
import signal
import subprocess
import sys
import time

import pytest

from densebench.core import process
from densebench.core.text import degrade

STOPPED = "stopped. Finished results are kept"
# what a command does here: read in workers that never finish, with a temporary file open
BUSY = """
import tempfile, time, torch
from densebench.core import process
process.begin()
from densebench.views.loading import load
class Slow(torch.utils.data.Dataset):
    def __getitem__(self, i):
        open(tempfile.gettempdir() + f"/worker{i}", "w")
        time.sleep(1000)
try:
    list(load(Slow(), [[0], [1]], 2, torch.stack))
except KeyboardInterrupt:
    raise SystemExit(process.say_stopped())
"""
DEAF = """
import time
from densebench.core import process
process.begin()
try:
    print("ready", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    pass
time.sleep(1000)
"""
# a launcher's signal is for the whole group: workers end too, and torch raises that where the main thread happens to be
TOGETHER = """
import tempfile, time, torch
from densebench.core import process
process.begin()
from densebench.views.loading import load
class Slow(torch.utils.data.Dataset):
    def __getitem__(self, i):
        if i:
            open(tempfile.gettempdir() + f"/worker{i}", "w")
            time.sleep(1000)
        return torch.zeros(1)
batches = load(Slow(), [[0], [1], [2]], 2, torch.stack)
try:
    next(batches)
    time.sleep(1000)
except KeyboardInterrupt:
    time.sleep(1)
    raise SystemExit(process.say_stopped())
"""
# hooks of a fork, logging's among them, and finalizers have nobody to raise to
IN_A_HOOK = """
import os, signal, time
from densebench.core import process
process.begin()
os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGTERM))
if os.fork() == 0:
    os._exit(0)
time.sleep(1000)
"""


def start(code, tmp_path, start_new_session=False, **env):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def own_folder_of(pid, tmp_path):
    return next(iter(tmp_path.glob(f"densebench-*-{pid}-*")), None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_alone_ends_workers_and_temporary_files(number, tmp_path):
    command = start(BUSY, tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("densebench-*/worker*"))) == 2)
    command.send_signal(number)
    _, said = command.communicate(timeout=60)  # also waits for workers, which hold the pipe
    assert command.returncode == 128 + number
    assert said.count(STOPPED) == 1
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_signal_to_the_whole_group_is_one_line_too(tmp_path):
    command = start(TOGETHER, tmp_path, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("densebench-*/worker*"))) == 2)
    os.killpg(command.pid, signal.SIGTERM)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    assert said.splitlines() == [process.STOPPED]


@pytest.mark.parametrize("times", [1, 2])
def test_code_that_swallows_the_interrupt_ends_all_the_same(times, tmp_path):
    command = start(DEAF, tmp_path)
    assert command.stdout.readline() == "ready\n"
    for _ in range(times):
        command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert said.count(STOPPED) == 1
    assert "Traceback" not in said


def test_a_signal_in_the_middle_of_a_fork_is_one_line_too(tmp_path):
    command = start(IN_A_HOOK, tmp_path)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGTERM
    assert said.splitlines() == [process.STOPPED]


def test_temporary_folders_of_dead_processes_go_at_the_next_start(tmp_path):
    killed = start(DEAF, tmp_path)
    assert killed.stdout.readline() == "ready\n"
    living = start(DEAF, tmp_path)
    assert living.stdout.readline() == "ready\n"
    killed.kill()
    killed.communicate()
    other = tmp_path / "densebench-another-machine-1-x"
    other.mkdir()
    subprocess.run([sys.executable, "-c", "from densebench.core import process; process.begin()"], check=True,
                   env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    assert own_folder_of(killed.pid, tmp_path) is None
    assert own_folder_of(living.pid, tmp_path) is not None
    assert other.is_dir()
    living.kill()
    living.communicate()


def densebench(*arguments, **how):
    return subprocess.run([sys.executable, "-m", "densebench", *arguments], stderr=subprocess.PIPE, text=True, **how)


def test_a_reader_that_has_enough_is_no_error():
    command = subprocess.Popen(
        [sys.executable, "-m", "densebench", "list", "models"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_below_what_is_printed_is_one_line():
    with open("/dev/full", "w") as full:
        done = densebench("list", "protocols", stdout=full)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: what was to be printed is lost (No space left on device)."


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_printed_as_tables_print_it(encoding):
    code = "from densebench.core import process; process.begin(); print('a → b ± c ─ 语'); print('x')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    line, last = done.stdout.decode(encoding).splitlines()
    assert line == degrade("a → b ± c ─ 语", encoding)
    assert line in ("a -> b +- c - ?", "a -> b ± c - ?")
    assert last == "x"
