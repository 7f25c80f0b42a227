"""The loader of worker processes: values do not depend on them, and what becomes of one is said in words."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from densebench.core.errors import LoaderError, UsageError
from densebench.views import loading, sending
from densebench.views.loading import explain, load

IDS = [f"image{i}" for i in range(8)]
KEYS = [[0, 1], [2, 3], [4, 5], [6, 7]]


@dataclass
class Crop:
    views: list
    labels: dict
    rest: np.ndarray


class Items(Dataset):
    """Squares of numbers; the item `at` does something else."""

    def __init__(self, at=-1, then=None):
        self.at, self.then = at, then

    def __getitem__(self, index):
        if index == self.at:
            self.then()
        return torch.full((3,), index * index)


def stacked(keys, items=None, workers=2):
    return [batch.tolist() for batch in load(items or Items(), keys, workers, torch.stack, ids=IDS)]


def test_any_number_of_workers_gives_the_same_batches():
    assert stacked(KEYS, workers=0) == stacked(KEYS, workers=1) == stacked(KEYS)


def test_without_shared_memory_the_same_batches_come_through_pipes(monkeypatch, caplog):
    monkeypatch.setattr(sending, "free_shared_memory", lambda: 100)
    sending._say_pipes.cache_clear()
    assert stacked(KEYS) == stacked(KEYS, workers=0)
    assert [record.message for record in caplog.records if "--shm-size" in record.message]


class Growing(Dataset):
    """The first four items are small, the others of 2 MB."""

    def __getitem__(self, index):
        return torch.full((3 if index < 4 else 500_000,), float(index))


def test_each_batch_is_measured_for_images_of_one_dataset_may_differ_in_size(monkeypatch):
    sent = []
    monkeypatch.setattr(sending, "free_shared_memory", lambda: 8_000_000)
    monkeypatch.setattr(sending, "unpacked", lambda batch: sent.append(type(batch)) or batch)
    list(load(Growing(), KEYS, 2, torch.stack, ids=IDS))
    assert sent == [torch.Tensor, torch.Tensor, sending._Piped, sending._Piped]


def test_what_a_batch_takes_of_shared_memory_is_counted_once_and_wherever_it_is():
    whole = torch.zeros(10, 10)
    batch = Crop([whole, whole[:2]], {"labels": torch.zeros(3, dtype=torch.uint8)}, np.zeros(1000))
    assert sending.shared_bytes(batch) == 400 + 3  # a part travels as its whole; what is no tensor goes elsewhere
    assert sending.shared_bytes((1, "a")) == 0


def test_tensors_in_pipes_keep_type_shape_and_can_be_written(monkeypatch):
    batch = {"half": torch.randn(2, 3).half(), "flags": torch.tensor([True, False]), "rest": [None, "a"]}
    back = sending.unpacked(sending._Piped(sending._as_bytes(batch)))
    assert torch.equal(back["half"], batch["half"])
    assert back["half"].dtype == torch.float16
    back["flags"][0] = False
    assert back["rest"] == [None, "a"]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (kill, r"killed \(SIGKILL\) at image image5\. Most often memory ran out.*fewer --workers"),
        (crash, r"crashed \(SIGSEGV\) at image image5.*that file"),
        (lambda: os._exit(3), r"ended by itself \(exit code 3\) at image image5"),
        (lambda: sys.exit(), r"ended by itself \(exit code 0\) at image image5"),
    ],
)
def test_a_worker_that_is_gone_is_one_sentence_with_the_image(then, said, monkeypatch):
    monkeypatch.setattr(loading, "POLL", 0.5)
    with pytest.raises(LoaderError, match=said):
        stacked(KEYS, Items(5, then))


def test_workers_that_hang_are_given_up_and_named(monkeypatch):
    monkeypatch.setattr(loading, "POLL", 0.2)
    monkeypatch.setenv("DENSEBENCH_LOADER_TIMEOUT", "1")
    with pytest.raises(LoaderError, match=r"no images came for 1 s.*image2\b"):
        stacked(KEYS, Items(2, lambda: time.sleep(1000)))


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_limit_that_means_nothing_is_refused(text, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_LOADER_TIMEOUT", text)
    with pytest.raises(UsageError, match="seconds above 0"):
        stacked(KEYS)


def test_slow_batches_within_the_limit_come(monkeypatch):
    monkeypatch.setattr(loading, "POLL", 0.1)
    assert stacked(KEYS, Items(2, lambda: time.sleep(0.5))) == stacked(KEYS, workers=0)


def test_a_loader_left_early_ends_workers_that_are_at_work():
    batches = load(Items(7, lambda: time.sleep(1000)), KEYS, 2, torch.stack, ids=IDS)
    next(batches)
    workers = loading._Watch.latest.workers
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 20  # not the thousand seconds
    assert not any(worker.is_alive() for worker in workers)


def test_what_torch_raises_elsewhere_is_explained_too():
    assert "killed" in str(explain(RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")))
    assert explain(RuntimeError("another")) is None
    assert explain(ValueError("DataLoader worker")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    here = tmp_path / "pids"
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time, pathlib, torch\n"
        "from densebench.views.loading import load\n"
        "class Slow(torch.utils.data.Dataset):\n"
        "    def __getitem__(self, i):\n"
        f"        open({str(here)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "        time.sleep(1000)\n"
        "list(load(Slow(), [[0], [1]], 2, torch.stack))\n"
    )
    parent = subprocess.Popen([sys.executable, script])
    until = time.monotonic() + 120
    while (not here.exists() or len(here.read_text().split()) < 2) and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(pid) for pid in here.read_text().split()]
    parent.kill()
    parent.wait()
    while any(_runs(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
