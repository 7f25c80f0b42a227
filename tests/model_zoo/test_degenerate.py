"""Features that say nothing, as collapsed or half-precision training leaves them: a number, or a sentence."""

from densebench.runner.grid import run_request
from densebench.runner.request import Request
from tests import toys

DEGENERATE = """
import torch
from densebench import BackboneInfo
from tests.toys import ColorBackbone

class Plain(ColorBackbone):
    def tokens(self, *asked):
        return [self.of(tokens) for tokens in super().tokens(*asked)]
    def of(self, x): return x
class Half(Plain):
    def of(self, x): return x.half()
class Constant(Plain):
    def of(self, x): return torch.ones_like(x)
class TwoValues(Plain):
    def of(self, x): return torch.where(x[..., :1] > 0, torch.ones_like(x), -torch.ones_like(x))
class Zero(Plain):
    def of(self, x): return torch.zeros_like(x)
class Large(Plain):
    def of(self, x): return x * 1e6
"""


def test_degenerate_features_give_a_number_where_there_is_one_and_a_sentence_where_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toys.write_voc(tmp_path / "data")
    (tmp_path / "mine.py").write_text(DEGENERATE)
    names = ["Plain", "Half", "Constant", "TwoValues", "Zero", "Large"]
    settings = {
        "hummingbird": {"input_size": 32, "fractions": (1,)},
        "overclustering": {"input_size": 32, "clusters": (9,), "seeds": (0,), "n_redo": 1},
    }
    done = run_request(
        Request(
            model=[f"mine.py:{name}" for name in names], protocol=list(settings), settings=settings,
            dataset=["voc"], data_root="data", workers=0,
        )
    )  # fmt: skip
    found = {(r.model.name, r.protocol.name): [m.value for m in r.metrics] for r in done.done}
    assert found["Half", "hummingbird"] == found["Plain", "hummingbird"]  # features are rounded to it in any case
    assert found["Half", "overclustering"] == found["Plain", "overclustering"]
    for name in ("Constant", "TwoValues"):  # fewer points than clusters, and no direction better than another
        for protocol in settings:
            assert all(0 <= value < 60 for value in found[name, protocol])
    failed = {cell.rpartition(" / ")[0]: str(error) for cell, error in done.failed}
    assert failed.keys() == {"Zero / hummingbird", "Large / hummingbird", "Large / overclustering"}
    assert "a patch of length zero, which has no direction to compare" in failed["Zero / hummingbird"]
    assert "they exceed float16. Run again with --feature-dtype float32" in failed["Large / overclustering"]
