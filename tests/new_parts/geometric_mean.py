"""The geometric mean of the tasks' losses (MultiNet++, arXiv 1904.08325): a balance of one's own, in one file."""

from torch import Tensor

from mnv2_tasks.training.loss_balance import Balance, Losses


class GeometricMean(Balance):
    """A task of ten times the loss pulls no harder; one without labels in the batch does not count."""

    def forward(self, losses: Losses) -> Tensor:
        known = [loss for loss in losses.values() if float(loss.detach())]
        rest = [loss for loss in losses.values() if not float(loss.detach())]  # they stay in the graph, with 0
        total = sum(rest, start=next(iter(losses.values())).new_zeros(()))
        for loss in known:
            total = total + loss.log() / len(known)
        return total.exp()
