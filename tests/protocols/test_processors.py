"""The same features score the same digits on whatever processor: libraries are told to be on an older one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from densebench.ops.correspondence import match
from densebench.ops.faiss_calls import faiss_installed
from densebench.ops.lloyd import assign
from densebench.ops.retrieval import upsample_argmax
from densebench.ops.search import ExactIndex
from tests import toys
from tests.protocols.test_correspondence import Parts, measure

PROCESSORS = (
    {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
)


def outcomes() -> dict[str, object]:
    """Return what is found among features that are full of ties; none of them is exact in float32."""
    rng = np.random.default_rng(0)  # torch's own draws depend on the processor
    rows = torch.from_numpy(rng.standard_normal((40, 50))).float()
    rows = (rows / rows.double().square().sum(1, keepdim=True).sqrt()).float().repeat(5, 1)
    maps = torch.from_numpy(rng.standard_normal((50, 6, 6))).float().repeat(1, 2, 2)
    scores = torch.cat([maps[:4], maps[:4]])[None] * 7.3
    found = {
        "matches": match(rows[:20], maps, (90, 70)),
        "centroids": assign(rows[::3] + rows[1::3][:67], rows[:100]),
        "classes": upsample_argmax(scores, (90, 70)).sum(),
        **{
            f"{metric} {backend}": ExactIndex(rows, backend, metric).search(rows * 3 - 0.1, 12).indices
            for metric in ("ip", "l2")
            for backend in ("torch", *(["faiss"] if faiss_installed() else []))
        },
    }
    metrics, _, _ = measure(toys.OneHotBackbone(), Parts(), pairs=40)
    numbers = {name: float(metric.value).hex() for name, metric in metrics.items()}
    return {**{name: table.tolist() for name, table in found.items()}, **numbers}


def test_outcomes_do_not_depend_on_the_processor():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.protocols.test_processors"]
    running = [
        subprocess.Popen(command, cwd=root, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
        for env in PROCESSORS
    ]
    found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    here = outcomes()
    for other in found:
        assert [name for name in other if other[name] != here[name]] == []
    assert here["ip torch"] == here.get("ip faiss", here["ip torch"])
    assert here["l2 torch"] == here.get("l2 faiss", here["l2 torch"])


if __name__ == "__main__":
    print(json.dumps(outcomes()))
