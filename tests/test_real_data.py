"""Real images, a real ViT: it must beat its own architecture with random weights by a wide margin."""

import json

import pytest

from densebench.cli import main

SETTINGS = [
    "--set", "hummingbird.input_size=224", "--set", "hummingbird.fractions=[1]",
    "--set", "overclustering.input_size=224", "--set", "overclustering.clusters=[21]",
    "--set", "overclustering.seeds=[0, 1]", "--set", "positional_effect.input_size=224",
    "--set", "positional_effect.steps=500", "--limit", "100", "--workers", "0",
]  # fmt: skip


@pytest.mark.slow
def test_the_real_vit_beats_random_weights_on_voc(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = shared_data / "weights" / "vit_tiny_patch16_224.safetensors"
    common = ["--dataset", "voc", "--data-root", str(shared_data), *SETTINGS]
    for model in (["timm/vit_tiny_patch16_224", "--weights", str(weights)], ["timm/vit_tiny_patch16_224?random"]):
        with pytest.raises(SystemExit) as end:
            main(["run", "--model", *model, *common])
        assert not end.value.code
    values: dict[str, dict[str, float]] = {}
    for path in (tmp_path / "results" / "records").glob("*/*/*.json"):
        record = json.loads(path.read_text())
        for metric in record["metrics"]:
            values.setdefault(metric["name"], {})["random" if "random" in path.name else "real"] = metric["value"]
    assert values["miou@1"]["real"] > 20 > 10 > values["miou@1"]["random"]
    assert values["miou@K=21"]["real"] > 1.5 * values["miou@K=21"]["random"]
    assert values["miou"]["real"] > 1.5 * values["miou"]["random"]
    # NMI is no measure of quality: random features cluster colours, which are everywhere
    assert values["nmi"]["random"] < values["nmi_ground_truth"]["random"]
