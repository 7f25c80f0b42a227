import io

import pytest

from densebench.core.text import ASCII, degrade, plain, say


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("vit_small.lvd142m", "vit_small.lvd142m"),
        ("Größe → ≈", "Größe → ≈"),
        ("a\nb\r\nc\td", "a b  c d"),
        ("\x1b[31mred\x1b[0m", "?[31mred?[0m"),
        ("a\u202egnp.exe\u2066", "agnp.exe"),  # marks that turn the direction of reading
        ("a\u2028b\x85c", "a b?c"),
        ("\udc80", "?"),
    ],
)
def test_plain_is_one_line_that_does_nothing(text, kept):
    assert plain(text) == kept
    assert plain(plain(text)) == kept


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", None, "no such thing"])
def test_every_stream_carries_what_is_left(encoding):
    ours = "".join(ASCII) + "日"
    shown = degrade(ours, encoding)
    assert len(shown) >= len(ours)
    try:
        shown.encode(encoding or "utf-8")
    except LookupError:
        shown.encode("ascii")
    assert (shown == ours) == (encoding in ("utf-8", None))
    assert "±" in degrade("±", "latin-1")


def test_what_is_said_does_nothing_and_always_fits():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("miou ↑ 80.5 ± 1.0\n\x1b[2Jgone", stream)
    stream.flush()
    assert stream.buffer.getvalue().decode() == "miou ^ 80.5 +- 1.0\n?[2Jgone\n"
