"""The analyses, the ledger and the budget."""

import csv
import json

import pytest
import torch
from builders import settled
from hydra import compose, initialize_config_dir

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.budget import candidates, number
from mnv2_tasks.lab.figures.activations import positive_channels
from mnv2_tasks.lab.figures.convolutions import table
from mnv2_tasks.lab.figures.layers import layers, materialized
from mnv2_tasks.lab.figures.spiral import reconstruction, spiral, through_relu
from mnv2_tasks.lab.ledger import compare, rounds, structure
from mnv2_tasks.lab.paper import GRID, GRID_TOP1
from mnv2_tasks.lab.paper_costs import classifier_cost


def model(*overrides, classes=1000, device="meta"):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = settle(compose("analysis", ["backbone.output_stride=32", *overrides]))
    with torch.device(device):
        return build_model(config, {task: ("",) * classes for task in config["heads"]})


def test_figure_1_reconstruction_gets_better_with_dimensions():
    found = reconstruction(draws=50)
    errors, lost = ([row[name] for row in found.values()] for name in ("error", "lost"))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.7 > 0.35 > errors[-1]
    assert lost[0] > 0.5 and lost[-1] == 0
    points = spiral()
    back, gone = through_relu(points, torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))  # x = relu(x) - relu(-x)
    assert torch.allclose(back, points, atol=1e-6) and not gone.any()


def test_formulas_are_what_the_blocks_cost():
    for row in table():
        for name in ("standard", "separable", "inverted_residual"):
            assert row[name] == row[f"{name}_counted"]
        assert row["separable_to_standard"] == pytest.approx(row["one_over_n_plus_one_over_k2"])


def test_layers_add_up_to_the_whole():
    rows = layers(model(), (224, 224))
    assert sum(row["madds"] for row in rows) == classifier_cost(1.0, 224)[1]
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in model().parameters())
    last = next(row for row in rows if row["name"] == "backbone.last.0")
    assert last["receptive_field"] == 491 and last["jump"] == 32 and last["output"] == [7, 7]
    dilated = layers(model("backbone.output_stride=8"), (224, 224))
    assert {r["jump"] for r in dilated if r["name"].startswith("backbone.last")} == {8}


@pytest.mark.parametrize("block", ["plain", "classic", "separable"])
def test_receptive_field_is_what_gradients_reach(block):
    network = model(f"block@backbone.block={block}", "backbone.width=0.1", "size=256", classes=2, device="cpu").eval()
    for conv in network.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.constant_(conv.weight, 0.01)  # so that no activation hides a part of the field
    row = [r for r in layers(network, (256, 256)) if r["name"].startswith("backbone.blocks.2.")][-1]
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    x = network.backbone.stem(image)
    for inner in network.backbone.blocks[:3]:
        x = inner(x)
    x[0, :, x.shape[2] // 2, x.shape[3] // 2].sum().backward()
    reached = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert reached.max() - reached.min() + 1 == row["receptive_field"]


def test_table_3():
    assert materialized()[112] == (16, 16 * 112**2 * 2)
    assert max(size for _, size in materialized().values()) == 401_408


def test_positive_channels_leave_the_network_as_it_was():
    network = model("backbone.width=0.35", classes=2, device="cpu").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    rows = positive_channels(network, images, batch_statistics=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())
    assert len(rows) == 1 + 1 + 16 * 2 + 1  # stem, first depthwise, two a block, last
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert 0.3 < sum(row["mean"] for row in rows) / len(rows) < 0.7  # about half, as at the start of the paper's


def test_ledger_has_every_row_right_or_explained():
    rows = list(structure())
    assert len(rows) > 70 and not [row for row in rows if row.verdict == "DIFFERS"]
    assert sum(row.verdict == "same" for row in rows) >= 60
    assert {row.table for row in rows} == {"2", "3", "4", "5", "6", "7", "grid"}
    assert {w: set(r) for w, r in GRID_TOP1.items()} == {w: set(r) for w, r in GRID.items()}
    assert rounds(3.47, "3.4") and rounds(3.47, "3.5") and not rounds(3.51, "3.4")
    assert compare("t", "w", 5.0, "4.0", "M").verdict == "DIFFERS"


@pytest.mark.slow
def test_analysis_command(cli, tmp_path):
    run = ("size=32", "backbone.stem_stride=1", "data.size=32", "backbone.width=0.35", "loader.workers=0")
    cli("train", "task=classifier", *run, "data.train=16", "data.val=8", "loader.batch_size=8", "trainer.max_epochs=1",
        "examples=0", f"runs={tmp_path}", "name=run")  # fmt: skip
    ckpt = tmp_path / "classifier" / "run" / "checkpoints" / "best.ckpt"
    what = "what=[figure1,figure7,convolutions,memory,layers]"
    out = cli("analysis", what, f"ckpt={ckpt}", "images=8", f"runs={tmp_path}", "name=all")[1]
    assert "after training" in out and "1/N + 1/k^2" in out
    folder = tmp_path / "analysis" / "all"
    names = {path.name for path in folder.iterdir()}
    assert names >= {f"{what}.json" for what in ("figure1", "figure7", "convolutions", "memory", "layers")}
    assert names >= {"figure1.png", "figure7.png", "convolutions.png", "layers.png", "layers.csv"}
    assert sum(int(row["madds"]) for row in csv.DictReader((folder / "layers.csv").open())) > 1e6
    code, err = cli("analysis", "what=figure7", f"runs={tmp_path}", fails=True)
    assert code == 2 and "ckpt=" in err
    matched = ("what=layers", "block@backbone.block=plain", "backbone.match=madds", f"runs={tmp_path}", "name=matched")
    cli("analysis", *matched)
    found = json.loads((tmp_path / "analysis" / "matched" / "layers.json").read_text())
    assert sum(row["madds"] for row in found) == pytest.approx(classifier_cost(1.0, 224)[1], rel=0.02)
    code, err = cli("analysis", "what=figure9", f"runs={tmp_path}", fails=True)
    assert code == 2 and "figure7" in err


def test_budget(cli, tmp_path):
    tight = ("params=1.7M", "madds=13M", f"runs={tmp_path}")
    out = cli("budget", *tight, "name=small")[1]
    found = json.loads((tmp_path / "budget" / "small" / "budget.json").read_text())["fitting"]
    assert found and all(row["parameters"] <= 1.7e6 and row["madds"] <= 13e6 for row in found) and "0.35" in out
    assert all(row["latency_ms"] > 0 for row in found)
    assert f"{len(found)} of 66 fit (params=1,700,000 excludes" in out and out.startswith("budget: counting 66")
    few = ("backbone.output_stride=32", f"runs={tmp_path}")
    code, err = cli("budget", "params=1k", *few, fails=True)
    assert code == 2 and "comes closest" in err and "params=1,000 excludes 22" in err
    code, err = cli("budget", "madds=12M", "latency_ms=0.001", *few, fails=True)
    assert code == 2 and "latency_ms=0.001, as measured on this machine, excludes" in err and "madds=12,000,000" in err
    for wrong, word in ((["params=many"], "params=many"), ([], "no budget")):
        code, err = cli("budget", *wrong, f"runs={tmp_path}", fails=True)
        assert code == 2 and word in err
    assert number("madds", "0.3B") == 3e8
    with pytest.raises(InputError, match="size_mb"):
        number("size_mb", "-1")
    code, err = cli("budget", "params=1M", "backbone.match=madds", f"runs={tmp_path}", fails=True)
    assert code == 2 and "backbone.match" in err
    code, err = cli(
        "budget", "params=1M", "task=faster_rcnn", "backbone.output_stride=8", f"runs={tmp_path}", fails=True
    )
    assert code == 2 and "output_stride=8" in err


def test_budget_candidates():
    cells = candidates(settled(), [16, 32], (224, 224))
    order = [cell["imagenet_top1"] for cell in cells]
    assert order == sorted(order, reverse=True) and len(order) == 44
    small = candidates(settled("backbone.stem_stride=1"), [32], (32, 32))  # every size of the grid comes to 32 pixels
    assert len(small) == 6 and {cell["imagenet_top1"] for cell in small} == {None}
    assert candidates(settled("block@backbone.block=plain"), [32], (224, 224))[0]["imagenet_top1"] is None
