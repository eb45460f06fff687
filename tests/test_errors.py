"""What is told of an error: one bounded line, whatever the files of others bring into it."""

import errno
import pickle

import pytest
from torch.utils.data._utils.worker import ExceptionWrapper

from mnv2_tasks.errors import LONGEST, InputError, one_line, quote


def test_a_message_is_one_line_that_keeps_its_file_and_its_fix():
    message = str(InputError(f"a.json: {'x' * 10**6}\n{'y' * 10**6} is too long; cut it"))
    assert len(message) == LONGEST
    assert message.startswith("a.json: xxx") and message.endswith("yyy is too long; cut it")


def test_a_message_does_nothing_to_the_terminal():
    message = str(InputError("a\x1b[2J.json: \r\x00 \u202e\u2028 Größe\xa0\udce9"))
    assert message == r"a\x1b[2J.json: \r\x00 \u202e\u2028 Größe\xa0" + "\udce9"


def test_a_message_comes_whole_out_of_a_loader_and_a_pickle():
    error = InputError("a.jpg: the image is hurt; replace it")
    try:
        raise error
    except InputError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(InputError) as raised:
        wrapped.reraise()
    assert str(raised.value) == str(pickle.loads(pickle.dumps(error))) == str(error)


def test_quotes_are_short():
    assert quote("a" * 100, 20) == "'aaaaaaaa...aaaaaaa'"
    assert quote(10**5000) == "<int, too long to tell>" and quote([1]) == "[1]"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_one_line(number):
    assert str(one_line(OSError(number, "no", "a/b"))).startswith("a/b: ")
    assert one_line(OSError(number, "no")) is None  # no file that anyone gave


def test_a_full_disk_advises_what_there_is():
    full = OSError(errno.ENOSPC, "full", "a.ckpt")
    assert str(one_line(full, resumes=True)).endswith("go on with resume=<run folder>")
    assert str(one_line(full)).endswith("start the command again")
    assert str(one_line(OSError(errno.ENOSPC, "full"), "runs")).startswith("runs: the disk is full")
    assert str(one_line(OSError(errno.ENOSPC, "full", "/tmp/draft", None, "a.ckpt"))).startswith("a.ckpt: ")


def refused_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    return [tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"]


COMMANDS = ("train", "evaluate", "export", "analysis", "benchmark", "budget", "predict")


@pytest.mark.parametrize("program", COMMANDS)
def test_a_folder_for_results_that_cannot_be_written_is_told_at_the_start(cli, tmp_path, program):
    for folder in refused_folders(tmp_path):
        code, err = cli(program, f"runs={folder}", fails=True)
        assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1 and str(tmp_path) in err
    code, err = cli(program, "runs=null", fails=True)
    assert code == 2 and err == "error: runs=None: give a folder for results\n"


def test_the_folders_of_studies_and_of_the_ledger_too(cli, tmp_path):
    for folder in refused_folders(tmp_path):
        for call in (("train", "study=blocks", f"runs={folder}"), ("ledger", f"--out={folder}")):
            code, err = cli(*call, fails=True)
            assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]  # nothing is left there


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("predict",), ("model is not given", "model=")),
        (("predict", "data.rot=a"), ("data.rot: no such setting",)),
        (("benchmark",), ("model is not given", "model=")),
        (("benchmark", "model=null"), ("model is not given", "model=")),
        (("evaluate",), ("ckpt is not given", "ckpt=")),
        (("export",), ("ckpt is not given", "ckpt=")),
        (("train", "data=imagefolder", "data.rot=a"), ("data.rot", "did you mean root?")),
        (("train", "+data.rot=a"), ("data.rot: scenes has no such setting",)),
        (("train", "trainer.max_epoch=1"), ("did you mean trainer.max_epochs?", "+trainer.max_epoch=")),
        (("train", "+trainer.limit_tran_batches=1"), ("did you mean limit_train_batches?",)),
    ],
)
def test_what_is_missing_or_mistyped_is_told_in_a_line_before_data_is_read(cli, tmp_path, command, words, monkeypatch):
    monkeypatch.setattr("mnv2_tasks.datasets.formats.scenes.Scenes.split", lambda *_: pytest.fail("data was read"))
    program, *settings = command
    code, said = cli(program, *settings, f"runs={tmp_path}", fails=True)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert [word for word in words if word not in said] == [], said
