import os
import subprocess
import sys
from pathlib import Path

import pytest

from densebench.core.paths import cache_dir, config_file, sweep, temporary_name, write_atomically, zoo_dir

KILLED = """
import os, signal, sys
from pathlib import Path
from densebench.core.paths import temporary_name
for name in sys.argv[1:]:
    temporary_name(Path(name)).write_bytes(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="modes and process ids as POSIX has them")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("variable", "found"),
    [("DENSEBENCH_CACHE", cache_dir), ("DENSEBENCH_ZOO", zoo_dir), ("DENSEBENCH_CONFIG", config_file)],
)
def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, variable, found):
    monkeypatch.setenv(variable, "~/x")
    assert found() == Path.home() / "x"


@pytest.mark.skipif(os.name != "posix", reason="modes and process ids as POSIX has them")
def test_what_a_killed_process_left_is_swept_away(tmp_path):
    """Files and folders of dead processes and of long ago; not those of the living, of other machines, of others."""
    name = tmp_path / f"{'long' * 60}.json"
    subprocess.run([sys.executable, "-c", KILLED, str(name), str(tmp_path / "two")], check=False, timeout=60)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    machine, pid, token = left[0].name.removesuffix(".part").rpartition(".")[2].split("-")
    folder = tmp_path / f".x.{machine}-{pid}-{token}.part"
    folder.mkdir()
    (folder / "inside").write_text("half")
    elsewhere = tmp_path / f".x.00000000-{pid}-{token}.part"
    long_ago = tmp_path / f".y.00000000-{pid}-{token}.part"
    living = temporary_name(tmp_path / "z")
    others = [tmp_path / ".hidden", tmp_path / "mine.part", tmp_path / ".file.abcdefgh"]
    for path in (elsewhere, long_ago, living, *others):
        path.write_text("whole")
    os.utime(long_ago, (0, 0))
    deep = tmp_path / "a" / "b" / left[0].name
    deep.parent.mkdir(parents=True)
    deep.write_text("half")
    sweep(tmp_path, below=False)
    assert deep.exists()
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {elsewhere, living, tmp_path / "a", *others}
    assert list(deep.parent.iterdir()) == []
