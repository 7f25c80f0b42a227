"""How the table of models is read: what families share, what a base gives, and what a table may not say."""

import pytest

from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.catalog import CatalogEntry, Published
from densebench.model_zoo.catalog.loader import read_entries

TABLE = """
[colours]
architecture.mean = [0, 0.5, 1]

[big]
architecture.kwargs.depth = 24

[dino]
like = ["colours"]
licence = "MIT"
citation = "A"
data = "images"
objective = "none of {name}"
patch = 16
prefix = 1
embedding = "sines"
file.url = "https://example.org/{path}/{path}.pth"
file.drop = ["head.*"]
architecture.kwargs = { depth = 12, class_token = false }

[dino.models]
a_vits16 = { title = "A", architecture.timm = "vit_small", path = "x" }
b_vitl16 = { title = "B", like = ["big"], architecture.timm = "vit_large", architecture.positions = "none", path = "y" }

[made.models.c_vits16]
title = "C after {after}"
base = "b_vitl16"
licence = "MIT"
citation = "C"
data = "more than {base[data]}"
objective = "clusters"
prefix = 0
make = "train --base {base[name]} --name {name}"
after = "B"
"""


def read(tmp_path, old="", new=""):
    assert old in TABLE
    (tmp_path / "models.toml").write_text(TABLE.replace(old, new, 1))
    return read_entries(tmp_path / "models.toml")


def test_a_row_replaces_what_its_families_say(tmp_path):
    a, b, _ = read(tmp_path).values()
    net = Architecture(timm="vit_small", kwargs={"depth": 12, "class_token": False}, mean=(0.0, 0.5, 1.0))
    assert a == CatalogEntry(
        name="a_vits16",
        title="A",
        architecture=net,
        patch=16,
        prefix=1,
        licence="MIT",
        citation="A",
        data="images",
        objective="none of a_vits16",
        embedding="sines",
        file=Published(url="https://example.org/x/x.pth", drop=("head.*",)),
    )
    assert b.architecture.kwargs == {"depth": 24, "class_token": False}
    assert b.architecture.positions is None


def test_a_model_has_the_net_of_its_base_and_nothing_else_of_it(tmp_path):
    _, b, c = read(tmp_path).values()
    assert (c.architecture, c.patch, c.embedding) == (b.architecture, 16, "sines")
    assert (c.prefix, c.file, c.title) == (0, None, "C after B")
    assert (c.data, c.make) == ("more than images", "train --base b_vitl16 --name c_vits16")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "A"', 'title = "A", licens = "MIT"', r"models\.toml: a_vits16\.licens: there is no such key"),
        ("file.drop", "file.dropped", r"a_vits16\.file\.dropped: there is no such key"),
        ("patch = 16", 'patch = "16"', r"a_vits16\.patch: Input should be a valid integer"),
        ("[0, 0.5, 1]", "[0, 0.5]", r"a_vits16\.architecture\.mean\.2: Field required"),
        ('citation = "A"', "", r"a_vits16\.citation: Field required"),
        ('"none"', '"nearest"', r"b_vitl16\.architecture\.positions: Input should be 'antialias' or 'offset'"),
        ('["big"]', '["huge"]', r"b_vitl16 names 'huge', and there is none above"),
        ('base = "b_vitl16"', 'base = "d_vitl16"', r"c_vits16 names 'd_vitl16', and there is none above"),
        (', path = "x"', "", r"a_vits16 names 'path', and there is none above"),
        ("[made.models.c_vits16]", "[made.models.a_vits16]", r"a_vits16 is there twice"),
    ],
)
def test_what_a_table_may_not_say(old, new, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read(tmp_path, old, new)
