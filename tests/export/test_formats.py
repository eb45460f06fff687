"""Exported graphs: what they decide is what the model decides, in PyTorch and in every runtime that is installed."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import batch, make, written
from torchvision.ops import nms

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.export.compare import eager, random_images, size_of
from mnv2_tasks.export.decode import predictions
from mnv2_tasks.export.formats import FORMATS, format_of, get_format, need
from mnv2_tasks.export.graph import Graph, suppress
from mnv2_tasks.export.metadata import InputForm, Metadata, one_view
from mnv2_tasks.export.nms import suppress as numpy_suppress
from mnv2_tasks.export.report import ExportRow, markdown
from mnv2_tasks.kinds.kind import apart
from mnv2_tasks.model import Model


@pytest.mark.parametrize("how", ["native", "portable", "app"])
@pytest.mark.parametrize("kind", ["ssdlite", "focal"])
def test_detections_equal_the_heads_own(kind, how):
    model, images = make(kind), batch()
    theirs = model.predict(images)[kind]
    head, arrays = model.heads[kind], eager(Graph(model, nms=how).eval())(images)
    ours = predictions(kind, head.kind, arrays, head.decoding)
    assert sum(len(row["scores"]) for row in theirs) > 50
    for mine, wanted in zip(ours, theirs, strict=True):
        assert len(mine["scores"]) == len(wanted["scores"])
        torch.testing.assert_close(mine["scores"], wanted["scores"])
        both = [sorted(zip(r["labels"].tolist(), r["boxes"].round().tolist(), strict=True)) for r in (mine, wanted)]
        assert both[0] == both[1]


def test_labels_and_masks_equal_the_heads_own():
    model, images = make("classifier", "multilabel", "deeplabv3"), batch()
    arrays, theirs = eager(Graph(model).eval())(images), model.predict(images)
    for task, head in model.heads.items():
        for mine, wanted in zip(predictions(task, head.kind, arrays, None), theirs[task], strict=True):
            for name, value in wanted.items():
                assert torch.equal(mine[name], value)
    logits = eager(Graph(model, masks="logits").eval())(images)
    assert np.array_equal(logits["deeplabv3_logits"].argmax(1), arrays["deeplabv3_mask"])


def test_layouts_and_types_of_the_input_agree():
    model, images = make("classifier"), batch()
    plain = Graph(model).eval()(images)[0]
    last = Graph(model, layout="nhwc").eval()(images.permute(0, 2, 3, 1))[0]
    floats = Graph(model).eval()(images.float() / 255)[0]
    assert torch.equal(plain, last) and torch.equal(plain, floats)


def test_bare_backbone_gives_its_taps():
    model, images = make("ssdlite"), batch()
    arrays = eager(Graph(model, taps=("c4x", "c5x")).eval())(images)
    wanted = model.backbone((images / 255 - model.mean) / model.std)
    assert list(arrays) == ["c4x", "c5x"]
    assert all(np.array_equal(arrays[tap], wanted[tap].detach().numpy()) for tap in arrays)


def test_suppression_equals_torchvisions():
    generator = torch.Generator().manual_seed(0)
    for limit in (0.3, 0.6):
        centre, side = torch.rand(200, 2, generator=generator) * 100, 5 + torch.rand(200, 2, generator=generator) * 40
        boxes = torch.cat([centre - side / 2, centre + side / 2], 1)
        scores = torch.rand(200, generator=generator).sort(descending=True).values
        wanted = torch.zeros(200).index_fill(0, nms(boxes, scores, limit), 1)
        assert torch.equal(suppress(boxes, limit, steps=30), wanted)
        kept, _, _ = numpy_suppress(
            boxes.numpy(), scores[:, None].numpy(), score_threshold=0.0, nms=limit, detections=200
        )
        assert np.array_equal(kept, boxes[wanted > 0].numpy())


def test_suppression_after_too_few_steps_errs_only_in_long_chains():
    x = torch.arange(6.0) * 4  # each overlaps the next alone: 1, 0, 1, 0, ... are kept
    row = torch.stack([x, torch.zeros(6), x + 10, torch.full((6,), 10.0)], 1)
    assert suppress(row, 0.3, steps=6).tolist() == [1, 0, 1, 0, 1, 0]
    assert suppress(row, 0.3, steps=3)[:3].tolist() == [1, 0, 1]


def test_faster_rcnn_is_refused():
    from mnv2_tasks.heads.faster_rcnn import FasterRCNN

    backbone = MobileNetV2(width=0.35)
    model = Model(backbone, {"faster_rcnn": FasterRCNN(backbone.taps, 2)}, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(InputError, match="task=ssdlite"):
        Graph(model)


EVERYTHING = bool(os.environ.get("MNV2_TASKS_EVERY_FORMAT"))
# Left out unless asked for: one compiles for minutes, the other takes the process's streams from the tests after it.
APART = {"aoti", "openvino"}
INSTALLED = [
    name
    for name in FORMATS
    if all(find_spec(package) for package in get_format(name).packages) and (EVERYTHING or name not in APART)
]
SLOW = {"aoti", "executorch", "litert", "openvino", "mnn"}


@pytest.fixture(scope="module")
def classifier_in(tmp_path_factory):
    """classifier_in(format, folder) -> (path, about) of a classifier there; it is converted once for all tests."""
    made = {}

    def copied(name, folder, precision="fp32", spread=0.5):
        key = (name, precision, spread)
        if key not in made:
            model = make("classifier", spread=spread)
            made[key] = written(name, model, tmp_path_factory.mktemp(name), precision=precision)
        path, about = made[key]
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        return folder / path.name, about

    return copied


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("kinds", [("classifier",), ("ssdlite",), ("deeplabv3",)], ids="+".join)
def test_every_format_gives_what_pytorch_gives(name, kinds, classifier_in, tmp_path):
    from mnv2_tasks.export.compare import difference
    from mnv2_tasks.export.session import Exported

    if name in SLOW and kinds != ("classifier",) and not EVERYTHING:
        pytest.skip("minutes: MNV2_TASKS_EVERY_FORMAT=1 runs it")
    model = make(*kinds)
    plain = kinds == ("classifier",)
    path, about = classifier_in(name, tmp_path) if plain else written(name, model, tmp_path)
    told = json.loads(get_format(name).embedded(path) or "null")
    if name in ("executorch", "mnn", "ncnn"):  # these have no place for it
        assert told is None
    else:
        assert told["outputs"] == about["outputs"] and told["classes"] == about["classes"]
    if name == "coreml":
        pytest.skip("predicts on macOS alone")
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: about}}))
    network, reference = Exported(path, trust=FORMATS), eager(Graph(model).eval())
    shapes = [(1, 96, 128)] + ([(3, 96, 128)] if about["dynamic"] else [])
    shapes += [(2, 112, 96)] if "height" in about["dynamic"] else []
    for count, height, width in shapes:
        images = batch(count, (height, width))
        for task, head in model.heads.items():
            found = difference(head, task, reference(images), network(images))
            assert found["relative"] < 1e-3 and found["unlike"] <= 0.01 * found["total"], (count, height, width, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if not get_format(name).dynamic and name != "coreml"])
def test_tensorflows_padding_of_odd_maps_travels(name, tmp_path):
    from mnv2_tasks.export.session import Exported

    model, size = make("classifier", padding="same"), (72, 104)  # 9 x 13, 5 x 7
    path, about = written(name, model, tmp_path, size=size)
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: about}}))
    images = batch(2, size)
    found = apart(
        eager(Graph(model).eval())(images)["classifier_scores"],
        Exported(path, trust=FORMATS)(images)["classifier_scores"],
    )
    assert found["relative"] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if name in ("onnx", "executorch", "litert")])
def test_the_other_layout_is_read_back(name, tmp_path):
    from mnv2_tasks.export.session import Exported

    model, other = make("classifier"), "nchw" if get_format(name).layout == "nhwc" else "nhwc"
    path, about = written(name, model, tmp_path, layout=other)
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: about}}))
    images = batch(2)
    found = apart(eager(Graph(model).eval())(images)["classifier_scores"], Exported(path)(images)["classifier_scores"])
    assert found["relative"] < 1e-3


def test_a_head_with_several_views_is_said_to_have_one():
    model = make("deeplabv3")
    assert one_view(model) == []
    model.heads["deeplabv3"].has_views = True
    (line,) = one_view(model)
    assert "one view" in line and line in markdown({"latency_ms": {}}, [], "val", [line])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if "fp16" in get_format(name).precisions])
def test_fp16_is_half_as_large_and_close(name, classifier_in, tmp_path):
    from mnv2_tasks.export.session import Exported

    model = make("classifier", spread=0.05)
    whole = size_of(classifier_in(name, tmp_path / "whole")[0])
    path, about = written(name, model, tmp_path, precision="fp16")
    assert size_of(path) < 0.65 * whole  # the graph itself is small, but not nothing
    if name == "coreml":
        pytest.skip("predicts on macOS alone")
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: about}}))
    images = batch(2)
    found = apart(eager(Graph(model).eval())(images)["classifier_scores"], Exported(path)(images)["classifier_scores"])
    assert 0 < found["relative"] < 0.05


def test_half_of_a_graph_in_fp16_is_valid_onnx():
    from mnv2_tasks.export.formats.onnx import half

    onnx = pytest.importorskip("onnx")
    names = ["images", "inside", "outside", "out"]
    infos = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in names]
    nodes = [
        onnx.helper.make_node("Relu", [before], [after], name=after)
        for before, after in zip(names, names[1:], strict=False)
    ]
    graph = onnx.helper.make_graph(nodes, "graph", infos[:1], infos[3:], value_info=infos[1:3])
    model = half(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), ["outside"])
    assert [node.op_type for node in model.graph.node].count("Cast") == 4
    onnx.checker.check_model(model, full_check=True)


def test_an_onnx_file_that_is_not_valid_is_not_written(tmp_path):
    from mnv2_tasks.export.formats.onnx import save

    helper = pytest.importorskip("onnx").helper
    node = helper.make_node("Relu", ["nowhere"], ["out"])
    out = helper.make_tensor_value_info("out", 1, [1])
    model = helper.make_model(helper.make_graph([node], "graph", [], [out]))
    with pytest.raises(InputError, match="model.onnx: not written, it is no valid ONNX .*precision="):
        form = InputForm("nchw", "uint8", (1, 1, 1, 1))
        save(model, tmp_path / "model.onnx", Metadata({}, (1, 1), form, (), ()))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if "int8" in get_format(name).precisions])
def test_int8_stays_close(name, classifier_in, tmp_path):
    from mnv2_tasks.export.session import Exported

    model = make("classifier", spread=0.05)
    path, about = classifier_in(name, tmp_path, "int8", 0.05)
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: about}}))
    images = torch.cat(random_images([1, 3, 96, 128], 8))
    found = apart(
        eager(Graph(model).eval())(images)["classifier_scores"],
        Exported(path, trust=FORMATS)(images)["classifier_scores"],
    )
    assert 0 < found["relative"] < 0.35


def test_mnn_halves_what_is_asked_for_in_half_precision(monkeypatch, tmp_path):
    from mnv2_tasks.export.formats import mnn, onnx

    commands, path = [], tmp_path / "model.fp16.mnn"

    def convert(command, **_):
        commands.append(command)
        path.touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(onnx, "write", lambda graph, images, place, about, calibration: about)
    monkeypatch.setattr(mnn.subprocess, "run", convert)
    form = InputForm("nchw", "float32", (1, 3, 96, 128))
    asked = Metadata({}, (96, 128), form, ("mask",), ("batch",), "mnn", "fp16")
    written_as = mnn.write(Graph(make("classifier")), batch(), path, asked, ())
    assert "--fp16" in commands[0] and written_as == asked


def test_every_precision_is_told_what_one_conversion_found(monkeypatch):
    from mnv2_tasks.export.formats import onnx

    proto, calls = pytest.importorskip("onnx").ModelProto, []

    def converted(graph, images, about):
        calls.append(about.dynamic)
        return proto(producer_name="one"), ("batch", "height")  # the width turned out to be fixed

    monkeypatch.setattr(onnx, "_converted", converted)
    graph, images = Graph(make("classifier")), torch.zeros(2, 3, 96, 128, dtype=torch.uint8)
    form = InputForm("nchw", "uint8", (1, 3, 96, 128))
    asked = Metadata({}, (96, 128), form, tuple(graph.outputs), ("width", "height", "batch"))
    (first, about), (second, other) = (onnx.convert(graph, images, asked) for _ in range(2))
    first.producer_name = "another"
    assert len(calls) == 1 and second.producer_name == "one"
    assert about.dynamic == other.dynamic == ("batch", "height")


@pytest.mark.slow
def test_int8_of_openvino_fits_processors_that_add_products_in_16_bits(classifier_in, tmp_path):
    openvino, _ = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    path, _ = classifier_in("openvino", tmp_path, "int8", 0.05)
    constants = [one for one in openvino.Core().read_model(path).get_ops() if one.get_type_name() == "Constant"]
    weights = [one.get_data() for one in constants if one.get_element_type() == openvino.Type.i8]
    weights = [one for one in weights if one.shape[1] > 1]  # (O, I, h, w), and depthwise ones (C, 1, 1, h, w)
    assert len(weights) == 36  # 35 convolutions, and the classifier
    assert max(np.abs(one.astype(int)).max() for one in weights) <= 64 and 2 * 255 * 64 < 2**15


@pytest.mark.slow
def test_int8_of_onnx_fits_processors_that_add_products_in_16_bits(classifier_in, tmp_path):
    onnx = pytest.importorskip("onnx")
    path, _ = classifier_in("onnx", tmp_path, "int8", 0.05)
    graph = onnx.load(str(path)).graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
    weights = [one for one in weights if one.dtype == np.int8 and one.ndim > 1 and one.shape[1] > 1]
    assert len(weights) == 36 and weights[-1].ndim == 2  # all but depthwise ones: 35 convolutions, and the classifier
    assert max(np.abs(one.astype(int)).max() for one in weights) <= 64 and 2 * 255 * 64 < 2**15


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_that_hold_code_are_not_loaded_unasked(classifier_in, tmp_path):
    from mnv2_tasks.export.session import Exported, read_about

    path, about = classifier_in("torch_export", tmp_path)
    evil, ran = tmp_path / "evil.pt2", tmp_path / "ran"
    with zipfile.ZipFile(path) as held, zipfile.ZipFile(evil, "w") as made:
        for name in held.namelist():
            with made.open(name, "w") as file:
                if name.endswith("sample_inputs/model.pt"):
                    torch.save((Payload(ran),), file)
                else:
                    file.write(held.read(name))
    with pytest.raises(InputError, match=r"evil.pt2: .*trust=\[torch_export\]"):
        Exported(evil)
    with pytest.raises(InputError, match=r"trust=\[aoti\]"):
        Exported(path.rename(tmp_path / "model.aoti"))
    assert list(read_about(evil).outputs) == list(about["outputs"])
    assert not ran.exists()


def test_what_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"to=executorch needs executorch: pip install 'mnv2_tasks\[executorch\]'"):
        need("executorch")
    with pytest.raises(InputError, match="to=tensorrt: no such format"):
        need("tensorrt")


def test_formats_are_told_by_their_names(tmp_path):
    for name in FORMATS:
        assert format_of(tmp_path / f"model.int8{get_format(name).suffix}") == name
    with pytest.raises(InputError, match="not an exported model"):
        format_of(tmp_path / "model.pkl")


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_threads_share_one_loaded_model(name, classifier_in, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from mnv2_tasks.export.session import Exported

    path, _ = classifier_in(name, tmp_path)
    network = Exported(path, trust=FORMATS)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8, generator=generator) for _ in range(8)]
    wanted = [{key: value.copy() for key, value in network(image).items()} for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: (i % 8, network(images[i % 8])), range(80)))
    for i, arrays in results:
        for key, value in arrays.items():
            np.testing.assert_allclose(value, wanted[i][key], rtol=1e-4, atol=1e-4, err_msg=f"{name}: {key}")


def test_threads_share_one_model_of_pytorch():
    from concurrent.futures import ThreadPoolExecutor

    model = make("ssdlite", "classifier", "deeplabv3")
    images = random_images([1, 3, 96, 128], 4)
    wanted = [model.predict(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: (i % 4, model.predict(images[i % 4])), range(40)))
    for i, rows in results:
        for task, (row,) in rows.items():
            for key, value in row.items():
                torch.testing.assert_close(value, wanted[i][task][0][key], rtol=1e-4, atol=1e-4)


def test_the_metadata_inside_a_file_counts(classifier_in, tmp_path):
    from mnv2_tasks.export.session import read_about

    pytest.importorskip("onnx")
    path, about = classifier_in("onnx", tmp_path)
    stale = {**about, "classes": {"classifier": ["x", "y", "z"]}, "files": {path.name: {"sha256": "0"}}}
    (tmp_path / "model.json").write_text(json.dumps(stale))
    with pytest.warns(UserWarning, match="what is inside the file counts"):
        assert read_about(path).model["classes"] == about["classes"]


def test_metadata_beside_another_file_is_refused(tmp_path, monkeypatch):
    from mnv2_tasks.export.formats import ncnn
    from mnv2_tasks.export.session import digest, read_about

    monkeypatch.setattr(ncnn, "FORMAT", replace(ncnn.FORMAT, packages=()))
    for suffix in (".ncnn.param", ".ncnn.bin"):
        (tmp_path / f"model{suffix}").write_bytes(b"1")
    path = tmp_path / "model.ncnn.param"
    entry = {"size": [64, 64], "outputs": [], "dynamic": []}
    entry["input"] = {"layout": "nchw", "dtype": "uint8", "shape": [1, 3, 64, 64]}
    (tmp_path / "model.json").write_text(json.dumps({"files": {path.name: {**entry, "sha256": digest(path)}}}))
    assert read_about(path).sha256
    (tmp_path / "model.ncnn.bin").write_bytes(b"2")
    with pytest.raises(InputError, match=r"model\.json: it was written with another model\.ncnn\.param"):
        read_about(path)


def test_the_report_explains_its_columns():
    form = InputForm("nchw", "uint8", (1, 3, 96, 128))
    about = Metadata({}, (96, 128), form, ("ssdlite_scores",), ())
    row = ExportRow("model.onnx", about, True, before={"ssdlite": 0.5}, after={"ssdlite": 0.49})
    pytorch = {"latency_ms": {"eager": {"1": 3.0, "2": 2.0}}}
    table, notes = markdown(pytorch, [row], "val", ["measured on X"]).split("\n\n")
    titles = [title.strip() for title in table.splitlines()[0].strip("|").split("|")][1:]
    explained = [line[2:].split(":")[0] for line in notes.splitlines()]
    assert explained[0] == "measured on X"
    assert all(title in explained or title.split(",")[0] in explained for title in titles)


@pytest.mark.parametrize(
    ("capabilities", "line"),
    [
        (
            {"architecture": "x86_64", "cpu_name": "AMD EPYC", "avx2": True, "avx512_f": False, "avx512_vnni": False},
            "AMD EPYC (x86_64: AVX2, no AVX-512, no VNNI)",
        ),
        (
            {"architecture": "x86_64", "cpu_name": "Core", "avx2": True, "avx512_f": False, "avx_vnni": True},
            "Core (x86_64: AVX2, no AVX-512, VNNI)",
        ),
        ({"architecture": "aarch64", "cpu_name": "N1", "neon": True, "dot": True}, "N1 (aarch64: dotprod, no i8mm)"),
        ({"architecture": "riscv64", "cpu_name": "X"}, "X (riscv64)"),
    ],
)
def test_the_processor_is_told_with_its_products_of_8_bits(capabilities, line):
    from mnv2_tasks.machine import describe_processor

    assert describe_processor(capabilities) == line
    assert describe_processor().count("(") >= 1
