"""How the losses of several tasks become one step: fixed weights, learned weights, or gradient surgery by TorchJD."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mnv2_tasks.errors import InputError

Losses = Mapping[str, Tensor]  # {task: float32 scalar}


class Balance(nn.Module):
    """One number to minimise from the losses of all tasks, and the backward pass from it.

    A loss of exactly 0 says that no image of the batch has that task's labels, and so does a task that is left out:
    such a task moves neither the balance nor the other tasks.

    Args:
        tasks: their names.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    @abstractmethod
    def forward(self, losses: Losses) -> Tensor:
        """The scalar to minimise; at first it is the plain sum, unless weights are given."""

    def backward(self, total: Tensor, losses: Losses, *, shared: Sequence[nn.Parameter]) -> None:
        """Add to the `grad` of all parameters.

        Args:
            total: what `forward` gave for these losses, or a multiple of it: a loss scaler's, an accumulated step's.
            losses: the same tensors, still with their graph.
            shared: the learned parameters of the trunk, in the order of its layers.
        """
        total.backward()

    def weights(self) -> dict[str, float]:
        """{task: its present weight}, for logs; empty where tasks have none."""
        return {}

    def _stack(self, losses: Losses) -> Tensor:
        """(T,), 0 for a task that is left out."""
        none = next(iter(losses.values())).new_zeros(())
        return torch.stack([losses.get(task, none) for task in self.tasks])

    def _named(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.tasks, values.tolist(), strict=True))


class Fixed(Balance):
    """The weighted sum; a weight is 1 where not given."""

    def __init__(self, tasks: Sequence[str], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks)
        chosen = dict(weights or {})
        if unknown := sorted(set(chosen) - set(self.tasks)):
            raise InputError(f"balance.weights: no task {', '.join(unknown)}; the tasks are {', '.join(self.tasks)}")
        for task, weight in chosen.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"balance.weights.{task} is {weight}: give a number of at least 0")
        self._weights = {task: float(chosen.get(task, 1.0)) for task in self.tasks}

    def forward(self, losses: Losses) -> Tensor:
        return torch.stack([self._weights[task] * loss for task, loss in losses.items()]).sum()

    def weights(self) -> dict[str, float]:
        return dict(self._weights)


class Uncertainty(Balance):
    """Kendall, Gal and Cipolla, arXiv 1705.07115, section 3.2: weights that are learned with the network.

    Every task has the paper's term for classification, L / sigma^2 + log sigma, without the half before L that its
    term for regression has, so that training starts at the plain sum. Learned is s = log sigma^2, as the paper
    advises: exp(-s) L + s / 2, which is least at s = log 2 L. The gradient of s is 1/2 - exp(-s) L, and exactly 0
    for a task without labels in the batch.

    `log_variance` (T,) belongs in the optimizer, without weight decay.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))

    def forward(self, losses: Losses) -> Tensor:
        values = self._stack(losses)
        weighed = torch.exp(-self.log_variance) * values + self.log_variance / 2
        # The unknown stay in the graph with a gradient of 0, as processes that train together need it.
        return torch.where(values.detach() != 0, weighed, values).sum()

    def weights(self) -> dict[str, float]:
        return self._named(torch.exp(-self.log_variance.detach()))


class GradNorm(Balance):
    """Chen et al., arXiv 1711.02257: weights under which tasks that learn slower pull the trunk harder.

    G_i is the norm of the gradient of w_i L_i with respect to the last shared layer's weights: here the last tensor
    of `shared` with more than one dimension that every task's loss depends on. Tasks that take different taps meet
    before the shallowest of them, so for a classifier and a segmenter that is the projection of the last block. The
    weights step down the gradient of sum |G_i - mean(G) r_i^alpha| (equation 2), r_i being L_i / L_i(0) over its mean.

    They are stepped here, with each backward pass, and are no parameters of the optimizer. The step is taken in
    log w and measured in mean(G): weights stay positive and their sum stays the number of tasks as in Algorithm 1,
    whatever the scale of the losses. Over several processes, norms and losses are averaged before each step. While
    the whole trunk is frozen the weights stay.

    Raises InputError where the trunk learns, but no layer of it serves all tasks.

    Args:
        tasks: their names.
        alpha: 0: equal norms; the larger, the more tasks are kept at one pace. The paper takes 0.12 to 1.5.
        lr: of the step, about the largest relative change of a weight; 0.025 in the paper.
    """

    def __init__(self, tasks: Sequence[str], *, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(tasks)
        if not (alpha >= 0 and lr > 0):
            raise InputError(f"balance.alpha is {alpha}, balance.lr {lr}: give at least 0, and above 0")
        self.alpha = alpha
        self.lr = lr
        self.register_buffer("weight", torch.ones(len(self.tasks)))
        self.register_buffer("first", torch.zeros(len(self.tasks)))  # losses L(0); 0: not seen yet
        self.weight: Tensor
        self.first: Tensor
        self._layer: int | None = None  # its index in `shared`
        self._learned = 0  # tensors in `shared` when it was found: a trunk that thaws has more

    def forward(self, losses: Losses) -> Tensor:
        return (self.weight.clone() * self._stack(losses)).sum()

    def backward(self, total: Tensor, losses: Losses, *, shared: Sequence[nn.Parameter]) -> None:
        norms = self._norms(total, losses, shared)
        total.backward()
        self.step(norms, self._stack(losses).detach())

    def weights(self) -> dict[str, float]:
        return self._named(self.weight)

    def _norms(self, total: Tensor, losses: Losses, shared: Sequence[nn.Parameter]) -> Tensor:
        """G (T,), times what `total` is scaled by; 0 while the shared layer is not known."""
        norms = torch.zeros_like(self.weight)
        if len(shared) != self._learned:
            self._layer = None
            self._learned = len(shared)
        if self._layer is None and shared and all(t in losses and losses[t].requires_grad for t in self.tasks):
            self._layer = _last_shared([losses[task] for task in self.tasks], shared)
        for i, task in enumerate(self.tasks):
            if self._layer is not None and task in losses and losses[task].requires_grad:
                (pull,) = torch.autograd.grad(total, losses[task], retain_graph=True)  # its weight, scaled
                (slope,) = torch.autograd.grad(losses[task], shared[self._layer], pull, retain_graph=True)
                norms[i] = slope.norm()
        return norms

    @torch.no_grad()
    def step(self, norms: Tensor, losses: Tensor) -> None:
        """Move the weights once: G (T,) in any one unit, and losses (T,), 0 where unknown."""
        known = losses != 0
        sums = torch.stack([norms * known, losses, known.to(norms)])
        if _processes() > 1:
            dist.all_reduce(sums)
        norms, losses = sums[:2] / sums[2].clamp(min=1)
        if not sums.isfinite().all():  # a loss scaler that overflows skips its step too
            return
        known = sums[2] > 0
        self.first.copy_(torch.where(known & (self.first == 0), losses, self.first))
        norms, mean = norms[known], norms[known].mean()
        if len(norms) < 2 or mean == 0:
            return
        pace = losses[known] / self.first[known]
        wanted = mean * (pace / pace.mean()) ** self.alpha
        share = self.weight[known] / self.weight[known].sum()
        signed = torch.sign(norms - wanted) * norms
        slope = signed - share * signed.sum()  # by log w, where w = softmax(log w) keeps its sum
        share = torch.softmax(share.log() - self.lr * slope / mean, 0)
        self.weight[known] = share * self.weight[known].sum()


class TorchJD(Balance):
    """Gradient surgery: an aggregator of TorchJD (arXiv 2406.16232) makes one gradient of the trunk out of the tasks'.

    Each task's loss is passed back by itself, through its own head and the images of its own source, so tasks may
    share images or come from different data sets; layers of the heads get their task's gradient as it is. A task
    without labels in the batch has no row in the Jacobian, and its head no gradient. Aggregators that are made for a
    fixed number of tasks therefore need labels of every task in every batch. Costs a backward pass of the trunk, and
    its gradient's memory, for each task; gradients of accumulated batches are aggregated one batch at a time.

    Raises InputError without TorchJD, and where several processes train: they average gradients in hooks of one
    whole backward pass, before the surgery could see the tasks'.

    Args:
        tasks: their names.
        aggregator: a name in `torchjd.aggregation`, such as UPGrad, PCGrad or MGDA, for its defaults; or an
            aggregator, as a config with `_target_`.
    """

    def __init__(self, tasks: Sequence[str], *, aggregator: str | nn.Module = "UPGrad") -> None:
        super().__init__(tasks)
        self.aggregator: Any = _aggregator(aggregator) if isinstance(aggregator, str) else aggregator

    def forward(self, losses: Losses) -> Tensor:
        if _processes() > 1:
            raise InputError("balance=torchjd works in one process: take trainer.devices=1, or another balance")
        return torch.stack(list(losses.values())).sum()

    def backward(self, total: Tensor, losses: Losses, *, shared: Sequence[nn.Parameter]) -> None:
        known = [loss for loss in losses.values() if float(loss.detach()) != 0]
        if not (known and shared):
            total.backward()
            return
        accumulated = [weight.grad for weight in shared]
        jacobian = _jacobian(total, known, shared)
        finite = all(bool(rows.isfinite().all()) for rows in jacobian)
        for weight, gradient, rows in zip(shared, accumulated, jacobian, strict=True):
            weight.grad = gradient if finite else rows.sum(0)  # what is not finite is for the loss scaler to see
        if finite:
            self._aggregate(shared, jacobian)

    def _aggregate(self, shared: Sequence[nn.Parameter], jacobian: Sequence[Tensor]) -> None:
        """Add one gradient, made of the tasks', to that of each shared weight."""
        from torchjd.autojac import jac_to_grad

        weight: Any  # TorchJD reads the attribute `jac`
        for weight, rows in zip(shared, jacobian, strict=True):
            weight.jac = rows
        try:
            jac_to_grad(shared, self.aggregator)
        except ValueError as error:
            about = " ".join(str(error).split())
            raise InputError(f"balance.aggregator cannot combine {len(jacobian[0])} tasks: {about}") from error


def _jacobian(total: Tensor, losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of each loss, (losses, *weight.shape) for each shared weight; the heads' weights get theirs.

    TorchJD's mtl_backward is not for taps that lie on one path: what flows from c5x to c4x would count twice.
    """
    rows = []
    scales = torch.autograd.grad(total, losses)  # what a loss scaler multiplies them by
    for loss, scale in zip(losses, scales, strict=True):
        for weight in shared:
            weight.grad = None
        loss.backward(scale, retain_graph=loss is not losses[-1])
        rows.append([torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in shared])
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


def _last_shared(losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> int:
    """Index of the last weight, norms and biases aside, that every loss depends on."""
    places = [i for i, weight in enumerate(shared) if weight.ndim > 1]
    weights = [shared[i] for i in places]
    slopes = [torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for loss in losses]
    common = [i for i, *each in zip(places, *slopes, strict=True) if all(slope is not None for slope in each)]
    if not common:
        raise InputError(
            "balance=gradnorm: no layer that learns serves all tasks; unfreeze the backbone, or take another balance"
        )
    return common[-1]


def _aggregator(name: str) -> nn.Module:
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise InputError("balance=torchjd needs TorchJD: pip install 'mnv2_tasks[torchjd]'") from error
    names = [n for n in aggregation.__all__ if not n.endswith(("Weighting", "Aggregator"))]
    if name not in names:
        raise InputError(f"balance.aggregator: TorchJD has no {name}; it has {', '.join(names)}")
    try:
        return getattr(aggregation, name)()
    except ImportError as error:  # the solvers of some are extras of TorchJD
        raise InputError(f"balance.aggregator={name}: {' '.join(str(error).split())}") from error
    except TypeError as error:
        about = str(error).split("() ")[-1]
        raise InputError(
            f"balance.aggregator={name}: {about}; give it as {{_target_: torchjd.aggregation.{name}, ...}}"
        ) from error


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
