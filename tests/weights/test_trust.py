"""Files from elsewhere run nothing: every kind that is loaded, every section of it, with targets that leave a trace."""

import copy
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import CLASSES, CONFIG, save
from PIL import Image
from places import ROOT

import mnv2_tasks
from mnv2_tasks.assembly.network import build_model, load_model
from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import FORMATS, get_format, need
from mnv2_tasks.export.hub import write_hub
from mnv2_tasks.export.metadata import describe
from mnv2_tasks.weights.checkpoint import read_trusted
from mnv2_tasks.weights.trust import refuse_foreign

OWN = ROOT / "tests" / "new_head"
SECTIONS = {  # where in a config of a model a target may stand
    "the backbone": ("backbone",),
    "its block": ("backbone", "block"),
    "deep in it": ("backbone", "block", "norm", "layers"),
    "a head": ("heads", "classifier"),
    "deep in a head": ("heads", "classifier", "sources"),
    "the data": ("data", "scenes"),
    "deep in the data": ("data", "scenes", "parts", "one"),
    "a section of its own": ("extra",),
    "augment": ("augment", "classification"),
}
RUN_SECTIONS = {  # and in that of a run
    "the optimizer": ("optim", "optimizer"),
    "the schedule": ("optim", "schedule"),
    "optim": ("optim",),
    "the balance": ("balance",),
    "deep in the balance": ("balance", "aggregator"),
    "a logger": ("logger", "wandb"),
    "the trainer": ("trainer",),
    "a callback": ("trainer", "callbacks", "one"),
}


def evil(trace: Path) -> dict[str, dict]:
    """Targets that would write `trace`: of others, reached through our modules, and our own that are no such part."""
    text = f"open({str(trace)!r}, 'w')"
    return {
        "numpy.save": {"_target_": "numpy.save", "file": str(trace), "arr": [1]},
        "shutil": {"_target_": "shutil.copyfile", "src": __file__, "dst": str(trace)},
        "open": {"_target_": "builtins.open", "file": str(trace), "mode": "w"},
        "path": {"_target_": "pathlib.Path.touch", "_args_": [str(trace)]},
        "text": {"_target_": "numpy.testing._private.utils.runstring", "astr": text, "dict": {}},
        "eval": {"_target_": "builtins.eval", "_args_": [text]},
        "through ours": {"_target_": "mnv2_tasks.model.torch.save", "obj": [1], "f": str(trace)},
        "through a data set": {
            "_target_": "mnv2_tasks.datasets.formats.scenes.np.save",
            "file": str(trace),
            "arr": [1],
        },
        "ours": {"_target_": "mnv2_tasks.files.write_json", "_args_": [str(trace), {}]},
        "called within": {
            "_target_": "mnv2_tasks.datasets.formats.torchvision_sets.read",
            "make": {"_target_": "builtins.open", "file": str(trace), "mode": "w"},
        },
        "a module": {"_target_": "mnv2_tasks.errors"},
        "no text": {"_target_": ["numpy.save"]},
    }


EVIL = tuple(evil(Path("trace")))


def planted(config: dict, place: tuple[str, ...], target: dict) -> dict:
    """The config with a target in that place, beside what is there."""
    config = copy.deepcopy(config)
    node = config
    for key in place:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node |= target
    return config


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("place", SECTIONS | RUN_SECTIONS)
def test_no_section_of_a_checkpoint_is_called(tmp_path, place, name):
    trace = tmp_path / "trace"
    config = planted(CONFIG, (SECTIONS | RUN_SECTIONS)[place], evil(trace)[name])
    path = save(tmp_path / "evil.ckpt", config)
    for load in (read_trusted, load_model, mnv2_tasks.load):
        with pytest.raises(InputError, match=r"evil\.ckpt.*(not of this package|does not say what to build)"):
            load(path)
    assert not trace.exists()


@pytest.mark.parametrize("place", ["data", "heads", "backbone"])
@pytest.mark.parametrize(
    ("program", "settings"),
    [
        ("evaluate", ()),
        ("export", ("to=[torch_export]",)),
        ("export", ("what=backbone",)),
        ("analysis", ("what=figure7",)),
        ("predict", ()),
    ],
)
def test_no_command_calls_what_a_checkpoint_names(cli, tmp_path, program, settings, place):
    trace = tmp_path / "trace"
    where = {"data": ("data", "scenes"), "heads": ("heads", "classifier"), "backbone": ("backbone", "block")}[place]
    path = save(tmp_path / "evil.ckpt", planted(CONFIG, where, evil(trace)["numpy.save"]))
    if program == "predict":
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        settings = (f"model={path}", f"source={tmp_path / 'a.png'}")
    else:
        settings = (f"ckpt={path}", *settings)
    _, err = cli(program, *settings, f"runs={tmp_path}", fails=True)
    assert len(err.strip().splitlines()) == 1 and "numpy.save" in err and not trace.exists(), err


ABOUT = {
    **describe(build_model(CONFIG, {"classifier": tuple(CLASSES["classifier"])}), {**CONFIG, "license": None},
               {"classifier": tuple(CLASSES["classifier"])}),
    "size": [64, 64],
    "input": {"layout": "nchw", "dtype": "uint8", "shape": [1, 3, 64, 64]},
    "outputs": ["classifier_scores"],
    "dynamic": [],
}  # fmt: skip


def exported(path: Path, name: str, about: dict) -> Path:
    """A file of a format with nothing but what it tells of itself, inside or, where that has no place, beside."""
    path = path / f"model{get_format(name).suffix}"
    text = json.dumps(about)
    if name == "onnx":
        import onnx

        graph = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
        onnx.helper.set_model_props(graph, {"mnv2_tasks": text})
        onnx.save(graph, str(path))
    elif name == "openvino":
        import openvino

        constant = openvino.opset13.parameter([1], dtype=float)
        graph = openvino.Model([openvino.opset13.result(constant)], [constant])
        graph.set_rt_info(text, "mnv2_tasks")
        openvino.save_model(graph, str(path))
    elif name in ("torch_export", "aoti", "litert"):
        inside = {"torch_export": "model/extra/mnv2_tasks", "aoti": "x.wrapper_metadata.json", "litert": "model.json"}
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(inside[name], json.dumps({"mnv2_tasks": text}) if name == "aoti" else text)
    else:
        path.touch()
        path.with_name("model.json").write_text(json.dumps({**about, "files": {path.name: {}}}))
    return path


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "coreml"])  # coreml: macOS alone loads it
def test_no_metadata_of_an_exported_file_is_called(tmp_path, monkeypatch, name):
    try:
        without_network = replace(need(name), read=lambda *_: lambda images: [])  # nothing is asked of one
    except InputError:
        pytest.skip("not installed")
    monkeypatch.setattr(f"mnv2_tasks.export.formats.{name}.FORMAT", without_network)
    trace = tmp_path / "trace"
    assert mnv2_tasks.load(exported(tmp_path, name, ABOUT), trust=FORMATS).kinds
    for place, evil_name in [(place, evil_name) for place in SECTIONS for evil_name in EVIL]:
        about = {**ABOUT, "config": planted(ABOUT["config"], SECTIONS[place], evil(trace)[evil_name])}
        path = exported(tmp_path, name, about)
        with pytest.raises(InputError, match=r"model\..*(not of this package|does not say what to build)"):
            mnv2_tasks.load(path, trust=FORMATS)
        assert not trace.exists(), (place, evil_name)


@pytest.mark.parametrize("place", [("config", "heads", "classifier"), ("data", "scenes"), ("heads", "classifier")])
def test_no_command_calls_what_an_exported_file_names(cli, tmp_path, monkeypatch, place):
    pytest.importorskip("onnx")
    fixed = replace(need("onnx"), read=lambda *_: lambda images: [np.full((1, 3), 0.5, np.float32)])
    monkeypatch.setattr("mnv2_tasks.export.formats.onnx.FORMAT", fixed)
    trace = tmp_path / "trace"
    path = exported(tmp_path, "onnx", planted(ABOUT, place, evil(trace)["numpy.save"]))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    path.with_name("model.json").write_text(json.dumps({"files": {"model.onnx": {}, "../outside.onnx": {}}}))
    fails = place[0] == "config"  # outside of it, what a file tells is no config
    for program, *settings in (
        ("evaluate", f"ckpt={path}", "data.val=4", "data.size=64", "split=val", "loader.workers=0"),
        ("predict", f"model={path}", f"source={tmp_path / 'a.png'}"),
    ):
        _, said = cli(program, *settings, f"runs={tmp_path / 'runs'}", fails=fails)
        assert not trace.exists() and (not fails or len(said.strip().splitlines()) == 1), said
    cli("benchmark", f"model={path}", f"runs={tmp_path / 'runs'}", "threads=[1]", "seconds=0.01")
    assert not trace.exists()


@pytest.mark.parametrize("name", EVIL)
def test_no_part_of_a_hub_folder_is_called(tmp_path, name):
    trace = tmp_path / "trace"
    model = build_model(CONFIG, {task: tuple(names) for task, names in CLASSES.items()})
    write_hub(model, {**CONFIG, "license": None, "ckpt": None}, {"classifier": ("a", "b")}, tmp_path)
    mnv2_tasks.load_backbone(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for place in ("the backbone", "its block", "deep in it"):
        (tmp_path / "config.json").write_text(json.dumps(planted(config, SECTIONS[place], evil(trace)[name])))
        with pytest.raises(InputError, match=r"config\.json.*not of this package"):
            mnv2_tasks.load_backbone(tmp_path)
        assert not trace.exists()


def test_no_section_of_a_runs_config_is_called(cli, tmp_path, run_config):
    trace = tmp_path / "trace"
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints" / "last.ckpt", CONFIG)
    places = {**SECTIONS, **RUN_SECTIONS, "scenes": ("data", "scenes")}
    pairs = [(place, EVIL[i % len(EVIL)]) for i, place in enumerate(places.values())]
    pairs += [(("data", "scenes"), "ours"), (("optim", "optimizer"), "through ours"), (("trainer",), "eval")]
    for place, name in pairs:
        config = planted(run_config, place, evil(trace)[name]) | {"trust": ["numpy", "shutil", "builtins"]}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        _, err = cli("train", f"resume={tmp_path}", fails=True)
        assert "not of this package" in err and len(err.strip().splitlines()) == 1, (place, name, err)
        assert not trace.exists(), (place, name)


def test_what_is_named_in_trust_may_be_built(monkeypatch):
    monkeypatch.syspath_prepend(OWN)
    config = {"heads": {"lraspp": {"_target_": "lraspp.LRASPP", "_partial_": True}}}
    with pytest.raises(InputError, match=r"trust=\[lraspp\]"):
        refuse_foreign(config, "a.ckpt")
    refuse_foreign(config, "a.ckpt", trust=["lraspp"])
    with pytest.raises(InputError, match="not of this package"):  # reached through it, but defined elsewhere
        refuse_foreign({"heads": {"x": {"_target_": "lraspp.LRASPPHead"}}}, "a.ckpt", trust=["lraspp"])


def test_every_config_of_ours_is_ours(run_config):
    refuse_foreign(run_config, "config.yaml")


def test_interpolations_are_refused():
    with pytest.raises(InputError, match="write the value in place"):
        refuse_foreign({"data": {"x": {"root": "${oc.env:HOME}"}}}, "a.ckpt")


def test_a_checkpoint_has_no_data_downloaded(tmp_path):
    from mnv2_tasks.weights.trust import without_downloads

    data = {"mnist": {"_target_": "mnv2_tasks.datasets.formats.torchvision_sets.mnist", "root": str(tmp_path)}}
    assert without_downloads(data)["mnist"]["download"] is False
    scenes = {"scenes": {"_target_": "mnv2_tasks.datasets.formats.scenes.Scenes"}}
    assert without_downloads(scenes) == scenes


def test_a_runs_folder_starts_no_study(cli, tmp_path, run_config):
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints" / "last.ckpt", CONFIG)
    study = {"name": "x", "vary": {"+data.x._target_": ["builtins.eval"]}, "seeds": [0], "jobs": 1, "variant": None}
    for one in (study, {"name": "x"}, "x"):
        config = run_config | {"study": one, "runs": str(tmp_path / "others")}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        _, err = cli("train", f"resume={tmp_path}", fails=True)
        assert "study" in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "others").exists()


def test_a_checkpoint_tells_no_file_to_be_deleted(tmp_path):
    from mnv2_tasks.training.checkpoints import Best

    other, best = str(tmp_path / ".." / "other.txt"), str(tmp_path / "best.ckpt")
    state = {"dirpath": str(tmp_path), "best_model_score": torch.tensor(0.5), "kth_value": torch.tensor(-1.0)}
    state |= {name: other for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    state["best_k_models"] = {other: torch.tensor(-1.0)}
    callback = Best(tmp_path)
    callback.load_state_dict(state)
    assert callback.best_k_models == {}  # the folder has no best.ckpt
    Path(best).touch()
    callback.load_state_dict(state)
    assert callback.best_k_models == {best: 0.5} and callback.kth_value == 0.5
    assert {callback.best_model_path, callback.kth_best_model_path, callback.last_model_path} == {best, ""}
