"""`densebench verify` as a user meets it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from densebench.cli import main
from densebench.ops.faiss_calls import faiss_installed
from densebench.verify.folder import SHIPPED


@pytest.fixture
def verify(capsys):
    """Run the verb; returns its exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["verify", *map(str, arguments)])
        return (end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path):
    """Three of the shipped files."""
    for stem in ("d_kernel_losses_small", "g_nmi_det", "m_overcluster_score_ade_like_K40"):
        shutil.copy(SHIPPED / f"{stem}.npz", tmp_path)
    return tmp_path


def change(path, **arrays):
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    np.savez(path, **{name: value for name, value in (kept | arrays).items() if value is not None})


def test_the_shipped_set_is_verified_without_a_folder(verify):
    code, out, err = verify()
    n = len(list(SHIPPED.glob("*.npz")))
    assert (code, out.splitlines()[-1]) == (0, f"{n} of {n} ok")
    assert len(out.splitlines()) == n + 2
    assert "a_hbird_k5.npz" in out
    assert f"verify: {n} files" in err
    assert verify("--quiet")[2] == ""


def test_a_line_says_what_how_far_off_and_how_far_off_it_may_be(verify, folder):
    code, out, _ = verify(folder)
    assert code == 0
    assert out.splitlines()[0].split() == ["file", "what", "worst", "deviation", "tolerance"]
    file, *what, worst, deviation, tolerance, verdict = out.splitlines()[1].split()
    assert (file, " ".join(what), tolerance, verdict) == ("d_kernel_losses_small.npz", "kernel losses", "1e-10", "ok")
    assert worst.endswith("_grad")
    assert float(deviation) < 1e-10


def test_one_changed_number_fails_and_is_named_and_the_rest_goes_on(verify, folder):
    with np.load(folder / "g_nmi_det.npz") as file:
        change(folder / "g_nmi_det.npz", nmi=file["nmi"] + 1e-6)
    code, out, err = verify(folder)
    assert (code, out.splitlines()[-1]) == (1, "2 of 3 ok")
    (line,) = (line for line in out.splitlines() if "NOT OK" in line)
    assert line.startswith("g_nmi_det.npz")
    assert " nmi " in line
    assert "g_nmi_det.npz: nmi: off by" in err


def test_missing_torn_and_unknown_files_count_and_are_named(verify, folder):
    change(folder / "d_kernel_losses_small.npz", cka_loss=None)
    torn = folder / "g_nmi_det.npz"
    torn.write_bytes(torn.read_bytes()[:900])
    np.savez(folder / "z_other.npz", numbers=np.zeros(3))
    code, out, err = verify(folder)
    assert (code, out.splitlines()[-1]) == (1, "1 of 4 ok")
    assert "d_kernel_losses_small.npz: 1 array is missing: cka_loss" in err
    assert "g_nmi_det.npz: cannot be read" in err
    assert "z_other.npz: no check for this kind" in err
    assert out.count("NOT OK") == 3


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_with_nothing_to_verify_is_a_wrong_request(verify, tmp_path, name):
    (tmp_path / "empty").mkdir()
    code, out, err = verify(tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert name in err


def test_one_file_will_do(verify):
    code, out, _ = verify(SHIPPED / "j_cosine_scheduler.npz")
    assert (code, out.splitlines()[-1]) == (0, "1 of 1 ok")


def test_json_has_every_comparison_and_nothing_that_json_lacks(verify, folder):
    change(folder / "g_nmi_det.npz", counts=np.zeros((3, 3), np.int32))
    code, out, _ = verify(folder, "--json", "--device", "cpu", "--backend", "torch")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert code == 1
    assert (found["ok"], found["of"], found["device"], found["backends"]) == (2, 3, "cpu", ["torch"])
    kernels, nmi, _ = found["files"]
    assert kernels["ok"]
    assert len(kernels["findings"]) > 16
    (wrong,) = (finding for finding in nmi["findings"] if not finding["ok"])
    assert (wrong["what"], wrong["deviation"]) == ("counts", None)
    assert "shape" in wrong["note"]


def test_the_backend_asked_for_is_the_one_verified(verify):
    path = SHIPPED / "a_hbird_k5.npz"
    assert "faiss" not in verify(path, "--json", "--backend", "torch")[1].split('"files"')[1]
    if faiss_installed():
        assert "torch" not in verify(path, "--json", "--backend", "faiss")[1].split('"files"')[1]


def test_devices_that_are_not_there_are_refused(verify, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device in ("cuda", "abacus"):
        code, _, err = verify("--device", device)
        assert code == 2
        assert device in err


def test_faiss_is_refused_where_it_cannot_search(verify, monkeypatch):
    monkeypatch.setattr("densebench.ops.faiss_calls.faiss_installed", lambda: False)
    code, _, err = verify("--backend", "faiss")
    assert code == 2
    assert "not installed" in err
    monkeypatch.setattr("densebench.core.environment.pick_device", lambda asked: "cuda")
    assert verify("--backend", "faiss")[0] == 2


def test_help_and_other_verbs_do_not_wait_for_the_numerics():
    code = (
        "import sys, densebench.cli as cli\n"
        "try: cli.main(['verify', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'densebench.verify' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
