"""Every golden file is verified; files of other sizes, seeds and names too; what is wrong with one is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from densebench.ops.faiss_calls import faiss_installed
from densebench.verify.folder import NO_CHECK, SHIPPED, FileReport, list_files, pick_backends, verify_file
from densebench.verify.golden import FLOAT32_SLACK, Golden, read_arrays
from densebench.verify.kinds import KINDS, find_kind
from densebench.verify.report import complaints
from densebench.verify.settings import candidates, closest
from tests.parity.generated import MAKERS, cluster_probe

OURS = Path(__file__).parents[1] / "golden"
HANDED_OVER = Path(__file__).parents[2].parent / "shared" / "golden"
FILES = {path.stem: path for folder in (HANDED_OVER, OURS) for path in sorted(folder.glob("*.npz"))}
NOT_NUMBERS_OF_OURS = {
    "batch_size",  # of the reference's loop
    "argmax_margin_lt_1e5",  # follows from argmax_margin_min
    "not_global_zero_miou",  # what the reference says on ranks other than 0
    "spatial_res",  # the attention's own size
}


def golden(path: Path):
    return pytest.param(path, id=path.stem)


def save(folder: Path, name: str, arrays: dict) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("path", [golden(path) for path in FILES.values()])
def test_golden_file(path):
    report = verify_file(path, "cpu", pick_backends("all", "cpu"))
    assert report.ok, complaints(report)
    ends_in_nan = any("is NaN" in finding.what for finding in report.findings)
    assert set(report.unused) <= NOT_NUMBERS_OF_OURS | (
        {"grad_student_f32", "grad_student_f64"} if ends_in_nan else set()
    )


def test_every_exact_backend_is_verified():
    searched = {finding.what for finding in verify_file(SHIPPED / "a_hbird_k5.npz", "cpu", ("torch", "faiss")).findings}
    assert {"nn_index (torch)", "nn_index (torch, 7x32 at a time)"} <= searched
    if faiss_installed():
        assert "nn_index (faiss)" in searched


def test_the_reference_that_ends_in_nan_is_checked_as_far_as_it_goes():
    report = verify_file(SHIPPED / "c_neco_loss_euclidean_logistic_phi_s100.npz")
    found = {finding.what for finding in report.findings}
    assert {"p", "q", "settings whose loss is NaN are refused (f64)"} <= found
    assert "a floor makes loss and gradient finite (f32)" in found
    assert "loss_f64" not in found


@pytest.mark.parametrize("path", [golden(path) for path in FILES.values()])
def test_the_kind_is_known_by_the_arrays_alone(path):
    with np.load(path) as arrays:
        names = set(arrays.files)
    named, nameless = find_kind(path.stem, names), find_kind("mine", names)
    assert nameless is named
    assert named is not None
    assert path.stem.startswith(named.prefix)


@pytest.mark.parametrize("stem", ["c_diffsort_odd_even_4_cauchy", "c_neco_loss_cosine_cauchy_s10"])
def test_settings_that_no_name_says_are_found(stem, tmp_path):
    report = verify_file(save(tmp_path, "mine", read_arrays(SHIPPED / f"{stem}.npz")))
    assert report.ok, complaints(report)
    assert all("cauchy" in finding.note for finding in report.findings)


def test_a_name_that_says_a_setting_binds():
    assert list(candidates("c_diffsort_odd-even_12_logistic", "network", "distribution")) == [
        {"network": "odd_even", "distribution": "logistic"}
    ]
    assert len(list(candidates("x_cauchy", "network", "distribution", "similarity"))) == 4
    assert closest([]) == []


def test_a_name_that_lies_is_found_out(tmp_path):
    arrays = read_arrays(SHIPPED / "c_diffsort_odd_even_4_cauchy.npz")
    assert not verify_file(save(tmp_path, "c_diffsort_odd_even_4_logistic", arrays)).ok


@pytest.mark.parametrize("seed", [3, 20])
@pytest.mark.parametrize("title", MAKERS)
def test_generated_file(title, seed, tmp_path):
    report = verify_file(save(tmp_path, f"seed_{seed}", MAKERS[title](np.random.default_rng(seed))), "cpu", ("torch",))
    assert report.title == title
    assert report.ok, complaints(report)


@pytest.mark.skipif(not faiss_installed(), reason="needs faiss")
def test_ties_among_neighbours_are_no_fault_on_any_backend(tmp_path):
    for title in ("in-context retrieval", "DIP retrieval of labels"):
        path = save(tmp_path, "ties", MAKERS[title](np.random.default_rng(5)))
        report = verify_file(path, "cpu", ("torch", "faiss"))
        assert report.ok, complaints(report)


def test_centroids_that_were_trained_on_are_seen_through(tmp_path):
    path = save(tmp_path, "probe", cluster_probe(np.random.default_rng(8), trained_on=True))
    report = verify_file(path)
    assert report.ok, complaints(report)


def changed(values: np.ndarray) -> np.ndarray:
    """One number other than it was."""
    out = values.copy()
    place = np.unravel_index(out.size // 2, out.shape)
    out[place] = not out[place] if out.dtype == bool else (out[place] ^ 1 if out.dtype.kind in "iu" else out[place] + 1)
    return out


CHANGED = {
    "a_hbird_k5": ("nn_index", "label_hat", "argmax", "confusion", "miou_hungarian", "train_feats", "memory_labels"),
    "b_leopart_predsmiou_K5_C8": ("hungarian_tp", "m2o_prec_reordered", "score_iou", "gt"),
    "c_diffsort_odd_even_4_cauchy": ("perm_s10", "x"),
    "c_neco_loss_euclidean_logistic_phi_s100": ("p", "finite"),
    "d_kernel_losses_small": ("cka_loss_grad", "student"),
    "e_roi_224_96_p16": ("gc_boxes", "student_aligned", "nmb_crops"),
    "f_bins_softmax_UD": ("depth", "weight"),
    "g_nmi_det": ("counts", "nmi"),
    "i_sampling_scores": ("noise", "sampled_indices"),
    "j_cosine_scheduler": ("values",),
    "k_cbfe_cd": ("edges", "cooccurrence"),
    "l_resize_rules": ("nearest_index_448_to_100", "cluster_map_100"),
    "n_coco_class_merge": ("stuff_merged",),
    "o_cluster_probe": ("assignment", "loss_trace_20_steps", "centroids_after_20_steps"),
    "p_dip_train_loss": ("grad_ref", "query_labels"),
}


@pytest.mark.parametrize(("stem", "name"), [(stem, name) for stem, names in CHANGED.items() for name in names])
def test_one_changed_number_is_found(stem, name, tmp_path):
    arrays = read_arrays(SHIPPED / f"{stem}.npz")
    report = verify_file(save(tmp_path, stem, arrays | {name: changed(arrays[name])}))
    assert not report.ok
    assert complaints(report)


@pytest.mark.parametrize("path", [golden(path) for path in list_files(None)])
def test_a_missing_array_is_named(path, tmp_path):
    arrays = read_arrays(path)
    kind = find_kind(path.stem, set(arrays))
    assert kind is not None
    name = next(wanted for wanted in reversed(kind.arrays.split()) if "*" not in wanted)
    arrays.pop(name)
    report = verify_file(save(tmp_path, path.stem, arrays))
    assert not report.ok
    assert report.problem == f"1 array is missing: {name}"


def test_half_of_a_pair_is_missing(tmp_path):
    arrays = read_arrays(SHIPPED / "c_diffsort_odd_even_4_cauchy.npz")
    arrays.pop("sorted_s100")
    report = verify_file(save(tmp_path, "c_diffsort_odd_even_4_cauchy", arrays))
    assert report.problem == "array sorted_s100 is missing"
    assert not report.ok


def test_a_torn_file_cannot_be_read(tmp_path):
    path = tmp_path / "a_hbird_k5.npz"
    whole = (SHIPPED / path.name).read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    single = (tmp_path / "one.npy").read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"not an archive", single, whole[:2000] + b"\0" * 64 + whole[2064:]):
        path.write_bytes(torn)
        report = verify_file(path)
        assert report.problem.startswith("cannot be read"), report.problem
        assert not report.ok


def test_pickled_objects_are_not_opened(tmp_path):
    path = tmp_path / "a_hbird.npz"
    np.savez(path, train_feats=np.array([{}], dtype=object))
    assert verify_file(path).problem.startswith("cannot be read")


def test_what_the_numerics_cannot_take_is_this_file_s_fault(tmp_path):
    arrays = read_arrays(SHIPPED / "p_dip_train_loss.npz")
    report = verify_file(save(tmp_path, "p_dip_train_loss", arrays | {"patch_size": np.array(5)}))
    assert report.problem.startswith("stopped by ValueError")
    assert not report.ok


def test_a_kind_without_a_check_is_not_ok(tmp_path):
    report = verify_file(save(tmp_path, "z_new", {"x": np.zeros(3)}))
    assert (report.problem, report.ok) == (NO_CHECK, False)
    assert not FileReport("empty").ok


def test_deviations_are_those_of_the_stated_tolerances():
    v = Golden("x", {"a": np.array([1.0, np.nan, 3.0]), "i": np.arange(3), "s": np.array(2.0)})
    assert v.close("a", torch.tensor([1.0, np.nan, 3.004], dtype=torch.float64), 1e-3).deviation == pytest.approx(1e-3)
    assert v.near("a", torch.tensor([1.0, np.nan, 3.004], dtype=torch.float64), 1e-3).deviation == pytest.approx(4e-3)
    assert v.close("a", torch.tensor([1.0, 2.0, 3.0]), 1e-3).deviation == np.inf
    assert v.close("a", torch.tensor([np.nan, np.nan, 3.0]), 1e-3).deviation == np.inf
    assert v.exact("i", torch.tensor([0, 1, 5])).note == "1 of 3 differ"
    assert "shape (2,), expected (3,)" in v.exact("i", torch.zeros(2)).note
    assert v.close("s", 2.0, 1e-12).ok
    assert not v.close("s", 2.0 + 1e-9, 1e-12).ok


def test_only_float32_off_the_cpu_gets_slack():
    v = Golden("x", {"a": np.zeros(2)}, "meta")
    assert v.close("a", torch.zeros(2), 1e-5).tolerance == pytest.approx(1e-5 * FLOAT32_SLACK)
    assert v.close("a", torch.zeros(2).double(), 1e-5).tolerance == 1e-5
    assert v.exact("a", torch.zeros(2)).tolerance == 0
    assert Golden("x", {"a": np.zeros(2)}).close("a", torch.zeros(2), 1e-5).tolerance == 1e-5


def test_the_shipped_set_is_small_covers_every_group_and_holds_the_reference_s_numbers():
    files = list_files(None)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 300_000
    assert {path.stem[0] for path in files} == {kind.prefix[0] for kind in KINDS}
    for path in files:
        original = FILES.get(path.stem)
        if original is None:
            continue
        shipped, full = read_arrays(path), read_arrays(original)
        assert set(shipped) == set(full)
        for name, values in shipped.items():
            part = full[name][tuple(slice(length) for length in values.shape)]
            np.testing.assert_array_equal(values, part, err_msg=f"{path.stem}: {name}")
