"""Which layers of a trunk keep their weights and statistics, and until when."""

from collections.abc import Iterator, Sequence

from torch import nn

from mnv2_tasks.errors import InputError


class Freezing:
    """Layers of a network that do not learn.

    Args:
        network: the trunk.
        always: its layers that keep their weights and norm statistics, which spares their backward pass.
        whole: True keeps all layers so; a number, for so many epochs (see `thaw`).
        norms: whether all norms keep the statistics that they have, in training too; their scales and shifts learn.

    Raises InputError for a `whole` that is neither.
    """

    def __init__(self, network: nn.Module, always: Sequence[nn.Module], *, whole: bool | int, norms: bool) -> None:
        if not isinstance(whole, int) or whole < 0:
            raise InputError(f"backbone.freeze is {whole}: use true, false or a number of epochs")
        self.network = network
        self.always = list(always)
        self.whole = whole
        self.norms = norms
        self.now: list[nn.Module] = [network] if whole else self.always
        self._stop()

    @property
    def thaws(self) -> bool:
        """Whether layers join in later."""
        return bool(self.whole) and self.whole is not True

    def _stop(self) -> None:
        for layer in self.now:
            layer.requires_grad_(False)

    def hold(self) -> None:
        """To be called whenever the network goes into training: what is frozen stays as in evaluation."""
        for frozen in self.now:
            for layer in frozen.modules():
                layer.training = False
        if self.norms:
            for layer in self.network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.training = False

    def thaw(self, epoch: int) -> None:
        """At the start of training epoch `epoch`: where `whole` is a number that has passed, learn from now on.

        What is frozen always stays so.
        """
        if not self.thaws or epoch < self.whole or self.now is self.always:
            return
        self.now = self.always
        self.network.requires_grad_(True)
        self._stop()
        self.network.train()

    def learning(self) -> Iterator[nn.Parameter]:
        """The parameters that training changes, now or once the network has thawed."""
        if self.whole is True:
            return iter(())
        kept = {id(parameter) for layer in self.always for parameter in layer.parameters()}
        return (parameter for parameter in self.network.parameters() if id(parameter) not in kept)
