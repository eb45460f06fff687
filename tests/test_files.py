"""Every run of a command has a folder of its own."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refusal import refused

from mnv2_tasks.files import new_folder


def test_runs_that_start_together_share_no_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "runs", None), range(24)))
    assert len(set(folders)) == 24 and all(folder.is_dir() for folder in folders)


def test_a_name_is_given_once(tmp_path: Path) -> None:
    (new_folder(tmp_path, "a") / "file").touch()
    refused(lambda: new_folder(tmp_path, "a"), str(tmp_path / "a"), "choose another name=")
    assert new_folder(tmp_path, "b/c") == tmp_path / "b" / "c" and new_folder(tmp_path, "0").name == "0"


def test_a_command_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    program = "import sys, pathlib; from mnv2_tasks.files import new_folder; path = pathlib.Path(sys.argv[1]); "
    program += "new_folder(path, 'empty'); (new_folder(path, 'full') / 'file').touch(); sys.exit(2)"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
