"""Loss balancing against hand computations, the papers' toy problems, and plain backward passes."""

import math
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from builders import settled
from hydra.utils import instantiate
from places import ROOT
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnv2_tasks.assembly.build import make_task
from mnv2_tasks.assembly.overrides import expand
from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.training import loss_balance
from mnv2_tasks.training.loss_balance import Balance, Fixed, GradNorm, TorchJD, Uncertainty

CONFIGS = ROOT / "configs" / "balance"
TASKS = ("a", "b", "c")
MADE = {
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "pcgrad": lambda tasks: TorchJD(tasks, aggregator="PCGrad"),
    "mgda": lambda tasks: TorchJD(tasks, aggregator="MGDA"),
}


def make(name: str, tasks: tuple[str, ...] = TASKS) -> Balance:
    if name in ("pcgrad", "mgda"):
        pytest.importorskip("torchjd")
    return MADE[name](tasks)


class Net(nn.Module):
    """A trunk and a linear head a task; each task has its own images, or all share x."""

    def __init__(self, tasks: tuple[str, ...] = TASKS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks})

    def forward(self, x: Tensor | dict[str, Tensor], unknown: tuple[str, ...] = ()) -> dict[str, Tensor]:
        source = x if isinstance(x, dict) else dict.fromkeys(self.heads, self.trunk(x))
        outputs = {
            t: head(self.trunk(source[t]) if isinstance(x, dict) else source[t]) for t, head in self.heads.items()
        }
        known = {task: task not in unknown for task in self.heads}
        return {t: (out - 1).pow(2).mean() * (i + 1) * known[t] for i, (t, out) in enumerate(outputs.items())}

    @property
    def shared(self) -> list[nn.Parameter]:
        return list(self.trunk.parameters())


def step(net: Net, made: Balance, losses: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor | None]:
    net.zero_grad()
    made.backward(made(losses) * scale, losses, shared=net.shared)
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def rows(net: Net, losses: dict[str, Tensor]) -> Tensor:
    """The Jacobian of the losses by the trunk: (T, N)."""
    grads = [torch.autograd.grad(loss, net.shared, retain_graph=True) for loss in losses.values()]
    return torch.stack([torch.cat([g.flatten() for g in one]) for one in grads])


def flat(grads: dict[str, Tensor | None]) -> Tensor:
    return torch.cat([g.flatten() for name, g in grads.items() if name.startswith("trunk") and g is not None])


def test_fixed_is_the_plain_sum():
    net = Net()
    losses = net(torch.ones(3, 4))
    assert torch.equal(Fixed(TASKS)(losses), torch.stack(list(losses.values())).sum())
    weighted = Fixed(TASKS, weights={"b": 0.5, "c": 0})
    assert torch.allclose(weighted(losses), losses["a"] + losses["b"] / 2)
    assert weighted.weights() == {"a": 1.0, "b": 0.5, "c": 0.0}


@pytest.mark.parametrize(
    "weights, words", [({"d": 1}, "no task d"), ({"a": -1}, "weights.a"), ({"a": math.inf}, "a is inf")]
)
def test_bad_weights(weights, words):
    with pytest.raises(InputError, match=words):
        Fixed(TASKS, weights=weights)


def test_weights_are_of_the_fixed_sum_alone():
    config = settled(*expand(["balance=uncertainty", "balance.weights.ssdlite=2"]))
    with pytest.raises(InputError, match="balance=fixed"):
        make_task(config, None)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_learned_weights_start_at_the_plain_sum(name):
    net, made = Net(), make(name)
    losses = net(torch.ones(3, 4))
    assert torch.allclose(made(losses), sum(losses.values())) and made.weights() == dict.fromkeys(TASKS, 1.0)


def test_uncertainty_follows_its_formula():
    made = Uncertainty(TASKS)
    made.log_variance.data = torch.tensor([0.0, 1.0, -2.0])
    values = torch.tensor([0.3, 4.0, 2.0], requires_grad=True)
    made(dict(zip(TASKS, values.unbind(), strict=True))).backward()
    assert torch.allclose(made.log_variance.grad, 0.5 - torch.exp(-made.log_variance) * values)
    assert torch.allclose(values.grad, torch.exp(-made.log_variance))
    best = torch.log(2 * values.detach())
    made.log_variance = nn.Parameter(best)
    made(dict(zip(TASKS, values.unbind(), strict=True))).backward()
    assert made.log_variance.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("gone", [False, True])
def test_a_task_without_labels_changes_nothing_in_the_others(name, gone):
    net, x = Net(), torch.randn(3, 4)
    made, fewer = make(name), make(name, ("a", "c"))
    for made_ in (made, fewer):  # so that weights are no longer the first ones
        if name == "uncertainty":
            made_.log_variance.data += 0.3
    losses = net(x, unknown=("b",))
    if gone:
        del losses["b"]
    torch.manual_seed(1)  # PCGrad's order
    grads = step(net, made, losses)
    losses = net(x)
    torch.manual_seed(1)
    wanted = step(net, fewer, {task: losses[task] for task in ("a", "c")})
    for part, grad in grads.items():
        if "heads.b" in part:
            assert grad is None or not grad.any()
        else:
            assert torch.allclose(grad, wanted[part], atol=1e-7), part
    if name == "uncertainty":
        assert made.log_variance.grad[1] == 0 and made.log_variance.grad[[0, 2]].all()
    if name == "gradnorm":
        for _ in range(5):
            step(net, made, net(x, unknown=("b",)))
            step(net, fewer, {task: net(x)[task] for task in ("a", "c")})
        weights = made.weights()
        assert weights["b"] == 1 and made.first[1] == 0
        if not gone:
            assert weights["a"] != 1 and weights["a"] == pytest.approx(fewer.weights()["a"])


@pytest.mark.parametrize("name", MADE)
def test_a_batch_without_any_label(name):
    net, made = Net(), make(name)
    grads = step(net, made, net(torch.ones(3, 4), unknown=TASKS))
    assert not any(grad.any() for grad in grads.values())


def test_gradnorm_steps_down_its_gradient():
    made = GradNorm(TASKS, alpha=0.7, lr=1e-3)
    made.weight.copy_(torch.tensor([0.5, 1.5, 1.0]))
    made.first.copy_(torch.tensor([1.0, 2.0, 4.0]))
    norms, losses = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.9, 1.0, 3.0])
    pace = losses / made.first
    wanted = norms.mean() * (pace / pace.mean()) ** 0.7
    log_weight = made.weight.log().requires_grad_()
    pulled = 3 * torch.softmax(log_weight, 0) * norms / made.weight  # G_i = w_i |grad L_i|
    (slope,) = torch.autograd.grad((pulled - wanted).abs().sum(), log_weight)
    expected = 3 * torch.softmax(log_weight.detach() - 1e-3 * slope / norms.mean(), 0)
    before = made.weight.clone()
    made.step(norms, losses)
    assert not torch.equal(made.weight, before) and torch.allclose(made.weight, expected, atol=1e-7)


def test_gradnorm_does_not_see_a_loss_scaler():
    weights = []
    for scale in (1.0, 1024.0):
        net, made = Net(), GradNorm(TASKS)
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            step(net, made, net(x), scale)
        weights.append(made.weight)
    assert torch.equal(*weights) and not torch.equal(weights[0], torch.ones(3))
    before = made.weight.clone()
    step(net, made, net(x), math.inf)
    assert torch.equal(made.weight, before)


@pytest.mark.parametrize("tapped, layer", [((3,), 6), ((2, 3), 3), ((1, 3), 0), ((1, 2, 3), 0)])
def test_gradnorm_takes_the_deepest_layer_that_all_share(tapped, layer):
    stages = [nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)) for _ in range(3)]
    shared = [p for stage in stages for p in stage.parameters()]  # stage by stage: a weight, and two of the norm
    taps = [torch.rand(2, 2, 3, 3)]
    for stage in stages:
        taps.append(stage(taps[-1]))
    losses = {f"at {i}": taps[i].pow(3).mean() for i in tapped}
    made = GradNorm(tuple(losses))
    made.backward(made(losses), losses, shared=shared)
    assert made._layer == layer


def test_gradnorm_follows_a_trunk_that_thaws():
    net, made, x = Net(), GradNorm(TASKS), torch.randn(3, 4)
    for frozen, layer in ((net.shared, None), (net.shared[:2], 0), ([], 2)):
        for p in net.shared:
            p.requires_grad_(all(p is not other for other in frozen))
        losses = net(x)
        made.backward(made(losses), losses, shared=[p for p in net.shared if p.requires_grad])
        assert made._layer == layer
        assert (made.weight == 1).all() == (layer is None)


def test_gradnorm_needs_a_common_layer():
    left, right = nn.Linear(2, 2), nn.Linear(2, 2)
    losses = {"a": left(torch.ones(2)).sum(), "b": right(torch.ones(2)).sum()}
    made = GradNorm(("a", "b"))
    with pytest.raises(InputError, match="unfreeze"):
        made.backward(made(losses), losses, shared=[*left.parameters(), *right.parameters()])


def test_gradnorm_on_the_papers_toy_problem():
    """Section 4: regression to sigma_i tanh((B + e_i) x) for tasks whose sigma differ; weights even them out."""
    torch.manual_seed(0)
    sigma, tasks = torch.tensor([1.0, 10.0]), ("small", "large")
    base = torch.randn(8, 20) * 10**0.5
    maps = [base + torch.randn(8, 20) * 3.5**0.5 for _ in tasks]
    trunk = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    heads = nn.ModuleList(nn.Linear(32, 8) for _ in tasks)
    made = GradNorm(tasks, alpha=0.12)
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-3)
    shared = list(trunk.parameters())

    def losses() -> dict[str, Tensor]:
        x = torch.randn(64, 20)
        hidden = trunk(x)
        pairs = zip(tasks, heads, sigma, maps, strict=True)
        return {t: (head(hidden) - s * torch.tanh(x @ m.T)).pow(2).mean() for t, head, s, m in pairs}

    def pulls(found: dict[str, Tensor]) -> Tensor:
        slopes = [torch.autograd.grad(found[t], shared[2], retain_graph=True)[0].norm() for t in tasks]
        return made.weight * torch.stack(slopes)

    at_first = pulls(losses())
    for _ in range(150):
        found = losses()
        optimizer.zero_grad()
        made.backward(made(found), found, shared=shared)
        optimizer.step()
        assert made.weight.min() > 0 and abs(float(made.weight.sum()) - 2) < 1e-5
    after = torch.stack([pulls(losses()) for _ in range(10)]).mean(0)
    assert at_first.max() / at_first.min() > 5 and after.max() / after.min() < 1.5
    assert made.weight[0] > 5 * made.weight[1]


def _two_processes(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    net, made = Net(), GradNorm(TASKS, alpha=1.0)
    parallel = DistributedDataParallel(net)
    for i in range(6):
        torch.manual_seed(10 * i + rank)  # other images, and at times labels, on each
        losses = parallel(torch.randn(3, 4), unknown=("a",) if rank and i % 2 else ())
        net.zero_grad()
        made.backward(made(losses), losses, shared=net.shared)
    torch.save((made.weight, made.first, flat({n: p.grad for n, p in net.named_parameters()})), f"{folder}/{rank}.pt")
    with pytest.raises(InputError, match="one process"):
        TorchJD(TASKS, aggregator=nn.Identity())(losses)
    dist.barrier()  # neither leaves while the other still reads
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradnorm_stays_equal_over_processes(tmp_path):
    mp.spawn(_two_processes, (str(tmp_path),), nprocs=2)
    left, right = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
    assert (left[0] != 1).all() and abs(float(left[0].sum()) - 3) < 1e-5
    assert torch.allclose(left[1], (_first_losses(0) + _first_losses(1)) / 2)


def _first_losses(rank: int) -> Tensor:
    net = Net()
    torch.manual_seed(rank)
    return torch.stack(list(net(torch.randn(3, 4)).values())).detach()


def conflicting() -> tuple[Net, dict[str, Tensor]]:
    """Two tasks whose gradients of the trunk point against each other."""
    net = Net(("a", "b"))
    hidden = net.trunk(torch.ones(1, 4))
    losses = {"a": net.heads["a"](hidden).sum(), "b": -3 * net.heads["a"](hidden).sum() + net.heads["b"](hidden).sum()}
    slopes = rows(net, losses)
    assert slopes[0] @ slopes[1] < 0
    return net, losses


def test_pcgrad_by_hand():
    pytest.importorskip("torchjd")
    net, losses = conflicting()
    a, b = rows(net, losses)
    wanted = (a - a @ b / (b @ b) * b) + (b - a @ b / (a @ a) * a)
    assert torch.allclose(flat(step(net, make("pcgrad", ("a", "b")), losses)), wanted, rtol=1e-4, atol=1e-6)


def test_mgda_by_hand():
    pytest.importorskip("torchjd")
    net, losses = conflicting()
    a, b = rows(net, losses)
    share = ((b - a) @ b / (a - b).square().sum()).clamp(0, 1)  # the point of least norm between the two
    wanted = share * a + (1 - share) * b
    assert torch.allclose(flat(step(net, make("mgda", ("a", "b")), losses)), wanted, rtol=1e-3, atol=1e-5)


def test_upgrad_does_not_conflict():
    pytest.importorskip("quadprog")
    net, losses = conflicting()
    slopes = rows(net, losses)
    made = flat(step(net, TorchJD(("a", "b")), losses))
    assert (slopes @ made > -1e-4).all() and not torch.allclose(made, slopes.sum(0))


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_summed_rows_are_the_plain_gradient(sources, scale):
    """With images that the tasks share, or of their own; with a loss scaler; on top of an earlier gradient."""
    pytest.importorskip("torchjd")
    net = Net()
    x = torch.randn(3, 4) if sources == 1 else {task: torch.randn(3, 4) for task in TASKS}
    found = []
    for made in (Fixed(TASKS), TorchJD(TASKS, aggregator="Sum")):
        net.zero_grad()
        for _ in range(2):
            losses = net(x)
            made.backward(made(losses) * scale, losses, shared=net.shared)
        found.append([p.grad for p in net.parameters()])
        assert not any(hasattr(p, "jac") for p in net.parameters())
    assert all(torch.allclose(x, y, rtol=1e-4, atol=1e-5 * scale) for x, y in zip(*found, strict=True))


def test_taps_on_one_path_count_once():
    pytest.importorskip("torchjd")
    torch.manual_seed(0)
    backbone = MobileNetV2(0.35).eval()
    backbone.keep(["c4x", "c5x"])
    shared, image, found = list(backbone.parameters()), torch.rand(2, 3, 64, 64), []
    for made in (Fixed(("both", "deep")), TorchJD(("both", "deep"), aggregator="Sum")):
        taps = backbone(image)
        losses = {"both": taps["c4x"].mean() + taps["c5x"].pow(2).mean(), "deep": taps["c5x"].mean()}
        backbone.zero_grad()
        made.backward(made(losses), losses, shared=shared)
        found.append([p.grad for p in shared])
    assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(*found, strict=True))


def test_an_overflow_reaches_the_loss_scaler():
    net, made = Net(), make("mgda")
    assert not flat(step(net, made, net(torch.ones(3, 4)), math.inf)).isfinite().any()


def test_torchjd_errors(monkeypatch):
    pytest.importorskip("torchjd")
    with pytest.raises(InputError, match="no PCgrad; it has .*PCGrad"):
        TorchJD(TASKS, aggregator="PCgrad")
    with pytest.raises(InputError, match="n_byzantine.*_target_: torchjd.aggregation.Krum"):
        TorchJD(TASKS, aggregator="Krum")
    from torchjd.aggregation import Constant

    net, made = Net(), TorchJD(TASKS, aggregator=Constant(torch.ones(3)))
    step(net, made, net(torch.ones(3, 4)))
    with pytest.raises(InputError, match="cannot combine 2 tasks"):
        step(net, made, net(torch.ones(3, 4), unknown=("a",)))
    monkeypatch.setattr(loss_balance, "_processes", lambda: 2)
    with pytest.raises(InputError, match="trainer.devices=1"):
        made(net(torch.ones(3, 4)))


def test_without_torchjd(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(InputError, match=r"pip install 'mnv2_tasks\[torchjd\]'"):
        TorchJD(TASKS)


def test_configs():
    for path in sorted(CONFIGS.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        if path.stem == "torchjd":
            pytest.importorskip("torchjd")
            config["aggregator"] = {"_target_": "torchjd.aggregation.GradVac", "beta": 0.4}
        made = instantiate(config)(TASKS)
        net = Net()
        assert flat(step(net, made, net(torch.ones(3, 4)))).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_inside_lightning(name, tmp_path):
    """Automatic optimisation with clipping, accumulation and mixed precision goes through `backward`."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.balance = Net(), make(name)

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            self.losses = self.net(batch, unknown=("a",) if index == 1 else ())
            return self.balance(self.losses)

        def backward(self, loss: Tensor) -> None:
            self.balance.backward(loss, self.losses, shared=self.net.shared)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    module = Module()
    before = module.balance(module.net(torch.ones(2, 4)))
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        precision="bf16-mixed",
        gradient_clip_val=5.0,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2))
    assert module.balance(module.net(torch.ones(2, 4))) < before / 2
