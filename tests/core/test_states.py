import io

import numpy as np
import pytest
import torch

from densebench.core.errors import StorageError
from densebench.core.states import is_whole, read_state

STATE = {"weights": torch.arange(700.0), "step": 3, "name": "abc"}


def test_no_changed_byte_gives_another_state(tmp_path):
    """Of each byte that is changed, either it is noticed or it was padding."""
    path, buffer = tmp_path / "state.pt", io.BytesIO()
    torch.save(STATE, buffer)
    content = buffer.getvalue()
    noticed = 0
    for i in range(0, len(content), 13):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x40]) + content[i + 1 :])
        try:
            found = read_state(path)
        except StorageError:
            noticed += 1
            continue
        assert torch.equal(found["weights"], STATE["weights"])
        assert (found["step"], found["name"]) == (3, "abc")
    assert noticed > 0.8 * len(content) / 13


def test_what_is_whole(tmp_path):
    path = tmp_path / "shard.npz"
    assert not is_whole(path)
    np.savez(path, a=np.arange(100))
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(path)


@pytest.mark.parametrize("content", [b"", b"no archive", [1, 2]], ids=["empty", "text", "a list"])
def test_what_is_no_state_is_said(tmp_path, content):
    path = tmp_path / "state.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(StorageError, match=r"state\.pt cannot be read"):
        read_state(path)
