"""What two numbers differ in is named, in the order of its known effect."""

import subprocess
import sys

import pytest

from densebench.leaderboard.differences import (
    BY_DEFAULT,
    Difference,
    differences,
    published_differences,
    setting_differences,
)
from densebench.leaderboard.effects import EFFECTS, SMALL
from densebench.leaderboard.published import published_rows
from densebench.protocols import PROTOCOLS
from densebench.results.schema import Record
from tests.leaderboard.conftest import MakeRecord, hummingbird


def changed(record: Record, **values):
    """Return a record with some parts replaced, given as PART__FIELD or FIELD."""
    parts = record.model_dump()
    for name, value in values.items():
        part, _, field = name.partition("__")
        if field:
            parts[part][field] = value
        else:
            parts[part] = value
    return Record.model_validate(parts)


def names(found):
    return [each.field for each in found]


def test_two_presets_differ_in_what_they_set():
    found = setting_differences("hummingbird", "paper", {"input_size": 448}, "dip", {})
    said = {each.field: (each.a, each.b) for each in found}
    assert said["similarity"] == ("cosine", "l2")
    assert said["absent"] == ("zero", "skip")
    assert said["input_size"] == ("448", BY_DEFAULT)
    assert "fractions" not in said, "a number at one fraction does not depend on the others"
    assert not {"backend", "examples"} & set(said), "they change no score"
    assert names(found).index("temperature") < names(found).index("absent") < names(found).index("memory_dtype")
    assert setting_differences("hummingbird", "paper", {}, "embedded", {}) == ()
    assert setting_differences("hummingbird", "paper", {"precision": "bfloat16"}, "paper", {}) == (
        Difference("precision", "bfloat16", "float32"),
    )


def test_a_preset_that_is_not_here_is_one_difference():
    (found,) = setting_differences("linear_segmentation", "paper", {}, "dip", {})
    assert found.field == "preset"
    assert "dip (whose settings are not known here)" in found.text
    assert setting_differences("linear_segmentation", "dip", {}, "dip", {}) == ()
    (other,) = setting_differences("elsewhere", "paper", {"a": 1}, "paper", {"a": 2})
    assert other.text.startswith("preset: paper + a=1")
    (wrong,) = setting_differences("hummingbird", "paper", {"no_such_field": 1}, "paper", {})
    assert "no_such_field" in wrong.a


def test_records_differ_in_their_parts(record: MakeRecord):
    one = record("a", config={"neighbours": 30, "input_size": 448})
    assert differences(one, one) == ()
    assert differences(one, changed(one, model__name="b", model__weights_sha256="cd" * 32)) == ()
    other = changed(
        one,
        protocol__config={"neighbours": 1, "input_size": 504, "examples": 3},
        protocol__version=2,
        features={"dtype": "float32", "precision": "float32"},
        facts={"banks": [{"recall": 0.98}]},
        model__weights_sha256="cd" * 32,
        seed=1,
        environment={"densebench": "0.2.0"},
    )
    found = differences(one, other)
    assert names(found) == [
        "weights", "seed", "recall", "input_size", "neighbours", "version", "feature_dtype", "precision", "densebench",
    ]  # fmt: skip
    assert found[3].text == "resolution (input_size): 448 against 504"
    subset = differences(one, record("a", n_images=120, digest="w", config=one.protocol.config))
    assert subset == (Difference("images", "val, 1449 images", "val, 120 of 1449 images"),)
    assert names(differences(one, record("a", digest="w", config=one.protocol.config))) == ["images"]
    assert "dataset" in names(differences(one, changed(one, data__name="ade20k")))


def test_a_record_beside_a_printed_number(record: MakeRecord):
    row = next(
        r for r in published_rows("hummingbird", "voc") if r.label == "PaKA ViT-S/14" and r.at == {"fraction": "1"}
    )
    config = PROTOCOLS["hummingbird"]().configure("paper").__dict__ | {"input_size": 504}
    ours = record("paka", hummingbird(80.0), config=dict(config))
    assert published_differences(ours, row) == (), "an input size that follows from the preset is not a difference"
    asked = record("paka", hummingbird(80.0), config={**config, "input_size": 224}, settings={"input_size": 224})
    (found,) = published_differences(asked, row)
    assert found.text == f"resolution (input_size): 224 against {BY_DEFAULT}"
    dip = record("paka", config={**config, "similarity": "l2", "absent": "skip"}, preset="dip", n_images=120)
    assert names(published_differences(dip, row))[0] == "images"
    assert {"similarity", "absent"} <= set(names(published_differences(dip, row)))
    matched = published_differences(ours, row, ("miou_hungarian", (("fraction", "1"),)))
    assert matched[0].text == "quantity: miou_hungarian@1 against miou@1"


def test_every_setting_of_every_protocol_has_a_place():
    assert not set(EFFECTS) & set(SMALL)
    fields = {name for entry in PROTOCOLS for name in getattr(PROTOCOLS.config(entry.name), "__dataclass_fields__", ())}
    records = {"protocol", "dataset", "quantity", "images", "train", "classes", "ignored", "weights", "seed", "mean"}
    records |= {"preset", "version", "recall", "feature_dtype", "precision", "densebench", "std"}
    assert set(EFFECTS) | set(SMALL) <= fields | records, "an effect of a setting that is gone"


def test_no_difference_needs_torch():
    code = (
        "from densebench.leaderboard.differences import setting_differences as d; import sys;"
        "assert d('hummingbird', 'paper', {}, 'dip', {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "<b>"])
def test_values_of_others_are_one_line(name, record: MakeRecord):
    one = record("a", config={"neighbours": name})
    (found,) = differences(one, record("a", config={"neighbours": 30}))
    assert found.text.isprintable()
