"""Every shipped config composes, names classes that exist, and its model runs a step; mistakes are told in a line."""

import inspect
from copy import deepcopy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from builders import settled
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from refusal import refused
from torch.utils.data import Dataset
from torchvision import tv_tensors

from mnv2_tasks import train
from mnv2_tasks.assembly import build
from mnv2_tasks.assembly.overrides import CONFIGS, as_typed, expand, set_aside
from mnv2_tasks.assembly.resolve import resolve
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.assembly.suggestions import describe_suggestions
from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import as_boxes

OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.parent != CONFIGS and path.parent.name not in ("block", "augment", "preset")
]
CALLBACKS = "pytorch_lightning.callbacks"
KINDS = ("classification", "multilabel", "detection", "segmentation")
SILENT = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)


class NoiseSplit(Dataset):
    """Four images of noise of two classes, with labels of every kind."""

    def __len__(self):
        return 4

    def label(self, index):
        return index % 2

    def box_sizes(self):
        return torch.tensor([[0.5, 0.5], [0.2, 0.4]])

    def pixel_counts(self):
        return torch.tensor([3, 1])

    def __getitem__(self, index):
        mask = torch.zeros(64, 64, dtype=torch.uint8)
        mask[32:, 32:] = 1
        return {
            "image": tv_tensors.Image(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)),
            "image_id": index,
            "size": (64, 64),
            "label": torch.tensor(self.label(index)),
            "presence": torch.tensor([1.0, 0.0]),
            "boxes": as_boxes(torch.tensor([[16.0, 16.0, 48.0, 48.0]]), (64, 64)),
            "labels": torch.tensor([1]),
            "crowd": torch.tensor([False]),
            "area": torch.tensor([1024.0]),
            "mask": tv_tensors.Mask(mask),
        }


class Noise:
    provides = dict.fromkeys(KINDS, ("a", "b"))

    def split(self, side):
        return NoiseSplit()


@pytest.mark.parametrize("option", OPTIONS)
def test_composes_and_runs_a_step(option, tmp_path):
    """With its own losses, on data that stands for its own."""
    photos = ("photos=somewhere",) if option == "experiment=pets3" else ()
    small = ("size=64", "backbone.width=0.35", "loader.batch_size=2", "loader.workers=0")
    config = settled(option, *small, *photos)
    assert all(callable(get_object(target)) for target in targets(config))
    config |= {"data": {"noise": {"_target_": f"{__name__}.Noise"}}, "assign": {}}
    resolved = resolve(config, build.make_data, training=True)
    resolved.settings["backbone"]["weights"] = None  # they may be on the web
    task = build.make_task(resolved.settings, resolved.data)
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, **SILENT)
    trainer.fit(task, resolved.data)
    losses = [trainer.callback_metrics[f"{name}/train/loss"] for name in config["heads"]]
    assert trainer.global_step == 1 and all(loss > 0 and loss.isfinite() for loss in losses)


NOT_ITS_OWN = {"match", "match_to", "weights", "mean", "std"}  # of a backbone section: what assembly takes
OTHERWISE = {  # file -> settings that it is there to give: a data set's layout, or one that another stage decides
    "backbone/mobilenet_v2": {"output_stride"},
    "data/camvid": {"lists", "names", "ignore"},
    "data/voc_masks": {"images", "masks", "lists", "names"},
    "experiment/pets3": {"annotations", "images", "lists", "classes"},
    "task/multilabel": {"scale"},  # a small part of an image loses classes
}


def sections(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from sections(child)


@pytest.mark.parametrize("name", [str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")])
def test_the_defaults_are_those_of_the_classes(name):
    for section in sections(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))):
        if not section["_target_"].startswith("mnv2_tasks."):  # of others, whose settings are chosen here
            continue
        parameters = inspect.signature(get_object(section["_target_"])).parameters
        for key, value in section.items():
            if key in ("_target_", "_partial_", "defaults") or "${" in str(value) or key in OTHERWISE.get(name, ()):
                continue
            if name.startswith("backbone/") and key in NOT_ITS_OWN:
                continue
            default = parameters[key].default
            if default is not inspect.Parameter.empty:
                default = list(default) if isinstance(default, tuple) else default
                assert default == value or (default is None and value == {}), f"{name}: {key}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"+callbacks.x._target_={CALLBACKS}.Timr", ("callbacks.x._target_", "Timr", "no such class")),
        (
            f"+callbacks.x={{_target_: {CALLBACKS}.Timer, duratio: 3}}",
            ("callbacks.x.duratio", "did you mean duration?"),
        ),
        ("+callbacks.x.duration=3", ("callbacks.x", "_target_=<class>")),
        ("+logger.x._target_=mnv2_tasks.training.loggers.wanb", ("logger.x._target_", "no such class")),
        ("optim.optimizer._target_=torch.optim.SGDD", ("optim.optimizer._target_", "no such class")),
        ("+optim.optimizer.lrr=1", ("optim.optimizer.lrr", "SGD", "did you mean lr?")),
        ("optim.optimizer.lr=-1", ("optim.optimizer", "Invalid learning rate: -1")),
        ("+optim.schedule.foo=2", ("optim.schedule.foo", "warmup_cosine has no such setting")),
        ("optim.schedule.warmup=long", ("optim.schedule",)),
    ],
)
def test_a_part_that_cannot_be_is_told_before_data_is_read_or_anything_built(monkeypatch, override, words):
    monkeypatch.setattr(build, "make_data", None)
    monkeypatch.setattr("mnv2_tasks.assembly.trainer.instantiate", None)
    refused(lambda: train.prepare(settled(override)), *words)


def test_evaluate_composes():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert settle(compose("evaluate"))["split"] == "val"


def test_head_shorthand():
    config = settled(*expand(["head.boxes=fit", "head.nms=0.5", "data.val=7", "data.scenes.train=9"]))
    assert config["heads"]["ssdlite"]["boxes"] == "fit" and config["heads"]["ssdlite"]["nms"] == 0.5
    assert config["data"]["scenes"]["val"] == 7 and config["data"]["scenes"]["train"] == 9
    assert "head" not in config and "given" not in config
    config = settled(*expand(["balance.weights.ssdlite=2", "data=masks", "data.lists={split}_list.txt"]))
    assert config["balance"]["weights"] == {"ssdlite": 2} and config["data"]["masks"]["lists"] == "{split}_list.txt"


@pytest.mark.parametrize(
    "path",
    ["a (1).jpg", "https://host/a.jpg?w=3&h=4", "Übung/é.jpg", "x/[ab]*.jpg", "[a]/b.jpg", "a,b.jpg", "a#'\"b\\.jpg"],
)
def test_paths_are_taken_as_they_are(path):
    for key in ("data.root", "data.masks.root", "data.images", "runs", "backbone.weights", "baselines.deeplabv3"):
        config = settled(*expand(["task=deeplabv3", "data=masks", f"{key}={path}"]))
        told = {**config, **config["data"]["masks"], "weights": config["backbone"]["weights"], **config["baselines"]}
        assert told[key.split(".")[-1]] == path


def test_paths_may_be_quoted_null_at_home_or_swept(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand(["ckpt=null", "source='a b'", "model=[a,b]"]) == ["ckpt=null", "source='a b'", "model=[a,b]"]
    assert expand(["ckpt=~/a b.ckpt", "block=plain"]) == ['ckpt="/home/me/a b.ckpt"', "block@backbone.block=plain"]
    assert expand(["-m", "weights=a,b", "seed=0,1"]) == ["-m", "weights=a,b", "seed=0,1"]


def test_what_was_typed_is_told_as_it_was_typed():
    settings = ["head.nms=0.5", "data.val=7", "block=plain", "study.vary={block: [plain]}", 'baselines.a="b c"', "+x=1"]
    assert list(map(as_typed, expand(settings))) == settings
    assert list(map(as_typed, settings)) == settings and expand(expand(settings)) == expand(settings)


def test_of_a_run_that_goes_on_all_else_is_set_aside():
    own = ["resume=a b", "hydra.searchpath=[x]", "-m"]
    *remaining, changes = set_aside(expand([*own, "head.nms=0.5", "~logger", "optim.lr=1 (one)"]))
    assert remaining == ['resume="a b"', "hydra.searchpath=[x]", "-m"]
    assert OverridesParser.create().parse_override(changes).value() == [
        *("hydra.searchpath=[x]", "++given.head.nms=0.5", "~logger", "optim.lr=1 (one)")
    ]
    assert set_aside(["resume=null", "seed=1"]) == ["resume=null", "seed=1"]


def test_several_heads_and_data_sets():
    config = settled(*expand(["task=[classifier,ssdlite]", "data=[coco,imagefolder]", "data.coco.root=here"]))
    assert list(config["heads"]) == ["classifier", "ssdlite"]
    assert config["data"]["coco"]["root"] == "here" and config["data"]["imagefolder"]["root"] == "somewhere"
    with pytest.raises(InputError, match=r"head.nms: there are several; write head.<classifier\|ssdlite>.nms"):
        settled(*expand(["task=[classifier,ssdlite]", "head.nms=0.5"]))


def suggestions(*overrides: str) -> tuple[str, ...]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return describe_suggestions(compose("train", list(overrides)))


def test_the_order_of_tasks_changes_nothing():
    other_strides = {"faster_rcnn", "fpn"}
    tasks = sorted({path.stem for path in (CONFIGS / "task").glob("*.yaml")} - other_strides)
    one, other = (
        resolve(settled(f"task=[{','.join(order)}]", "data=coco"), training=True).settings
        for order in (tasks, tasks[::-1])
    )
    assert one == other and list(one["heads"]) == list(other["heads"])
    assert list(one["heads"])[:3] == ["classifier", "multilabel", "ssdlite"]
    assert one["size"] == 512 and one["loader"]["batch_size"] == 8 and "AdamW" in one["optim"]["optimizer"]["_target_"]


@pytest.mark.parametrize("block", ["block=plain", "block=separable", "block=classic", "backbone=mobilenet_v1"])
def test_an_expansion_that_no_block_has_is_refused(block):
    refused(
        lambda: resolve(settled(*expand([block, "backbone.expansion=4"])), training=True),
        "expansion=4",
        "without effect",
    )
    resolve(settled(*expand([block])), training=True)


def test_what_is_suggested_is_said_where_suggestions_differ():
    assert suggestions("task=[ssdlite,classifier]", "data=coco", "loader.batch_size=9") == (
        "optim=adamw, as classifier suggests, for ssdlite too",
        "size=320 of what is suggested: ssdlite 320, classifier 224",
    )
    assert suggestions("task=classifier", "data=coco") == ()
    assert suggestions() == (
        "size=96 of what is suggested: ssdlite 320, scenes 96",
        "loader.batch_size=16 of what is suggested: ssdlite 32, scenes 16",
    )
    assert settled("size=[64,96]")["size"] == [64, 96] == settled("size=[64,96]")["data"]["scenes"]["size"]
    plain = settled("~preset")
    assert plain["size"] == 320 and plain["backbone"]["width"] == 1 and plain["trainer"]["max_epochs"] == 60


def test_the_optimizer_that_a_task_suggests_is_the_one_that_it_takes():
    for path in (CONFIGS / "task").glob("*.yaml"):
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
        taken = [entry["override /optim"] for entry in task["defaults"] if "override /optim" in entry]
        assert taken == [one["optim"] for one in task["suggests"]["task"].values() if "optim" in one], path


def test_what_is_resolved_leaves_the_settings_as_they_were():
    settings = settled("task=[deeplabv3,classifier]", "backbone.match=madds", "block@backbone.block=plain", "size=64")
    before = deepcopy(settings)
    resolved = resolve(settings, training=True, classes={"deeplabv3": ("a", "b"), "classifier": ("a", "b")})
    assert settings == before and list(settings["heads"]) == ["deeplabv3", "classifier"]
    assert resolved.settings["backbone"]["match"] is None and resolved.settings["matched"]["measure"] == "madds"
    assert resolved.sizes == {"scenes": (64, 64)} and "as many madds as inverted_residual" in resolved.said[0]
    again = resolve(resolved.settings, training=True, classes=resolved.classes)
    assert again.settings == resolved.settings and again.said == ()


def test_heads_agree_on_an_output_stride():
    for tasks, stride in (("[ssdlite]", 32), ("[deeplabv3]", 16), ("[classifier,ssdlite,deeplabv3]", 16)):
        assert resolve(settled(f"task={tasks}")).settings["backbone"]["output_stride"] == stride
    with pytest.raises(InputError, match="faster_rcnn works with 32"):
        resolve(settled("task=[faster_rcnn]", "backbone.output_stride=8"), lambda _: pytest.fail("data was read"))


def test_frozen_norms_need_weights_to_take_statistics_from():
    with pytest.raises(InputError, match="backbone.weights"):
        resolve(settled("backbone.freeze_norm=true"), training=True)


def test_several_data_sets_leave_the_norms_of_trained_weights_alone():
    both, weights = "data=[coco,imagefolder]", "backbone.weights=imagenet"
    for given, frozen in (((both, weights), True), ((both,), False), ((weights,), False)):
        for asked in (None, False):
            config = settled(*expand([*given, *([] if asked is None else [f"backbone.freeze_norm={asked}"])]))
            resolved = resolve(config, training=True)
            assert resolved.settings["backbone"]["freeze_norm"] is (frozen and asked is None)
            assert any("backbone.freeze_norm=false" in line for line in resolved.said) == (frozen and asked is None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.optimizer.lrr=0.1", ("optim.optimizer.lrr", "did you mean optim.optimizer.lr?")),
        ("head.boxs=fit", ("head.boxs", "did you mean boxes?")),
        ("data.trian=8", ("data.trian", "did you mean train?")),
        ("task=[ssdlite,deeplabv]", ("task=deeplabv", "did you mean deeplabv3?")),
        ("balance.weights.ssdlit=2", ("balance", "ssdlit")),
        ("data=cocoo", ("data=cocoo", "did you mean coco?")),
        ("data=coco", ("data.root", "add data.root=<folder of the data set>")),
        ("experiment=pets3", ("photos", "add photos=<value>")),
        ("trainer.max_epoch=3", ("trainer.max_epoch", "did you mean trainer.max_epochs?")),
        ("backbone.output_stride=12", ("backbone.output_stride", "8, 16 or 32")),
        ("head.loss=dice", ("head.loss", "focal")),
        ("size=16", ("size", "at least 32")),
        ("loader.batch_size=1", ("loader.batch_size", "at least 2")),
        ("trainer.precision=16-mixd", ("trainer", "16-mixd")),
        ("baselines.ssdlite=nowhere", ("baselines.ssdlite=nowhere", "metrics.json")),
        ("resume=nowhere", ("nowhere", "config.yaml")),
        ("backbone.weights=nowhere.pth", ("nowhere.pth", "no such")),
        (
            "backbone.width=0.5 (half)",
            ("backbone.width=0.5 (half)", "needs quotes", """'backbone.width="0.5 (half)"'"""),
        ),
    ],
)
def test_mistakes_are_told_in_one_line(cli, tmp_path, override, words):
    small = (
        ("data.train=8", "data.val=4")
        if "scenes" not in override and "=coco" not in override and "pets" not in override
        else ()
    )
    code, err = cli("train", *small, "loader.workers=0", f"runs={tmp_path}", override, fails=True)
    assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not list(Path(tmp_path).iterdir())
