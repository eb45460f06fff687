"""Equal cost: every block reaches the inverted residual's, at every width, size and head."""

import pytest
from builders import settled

from mnv2_tasks.assembly.equal_cost import TOLERANCE, cost, match_width, reference_of
from mnv2_tasks.assembly.resolve import resolve
from mnv2_tasks.errors import InputError

NETWORKS = {
    "plain": ["block@backbone.block=plain"],
    "separable": ["block@backbone.block=separable"],
    "classic": ["block@backbone.block=classic"],
    "mobilenet_v1": ["backbone=mobilenet_v1"],
}
CLASSES = tuple("abcdefghij")
# Every width, size and head, and every pair of them somewhere, without all of their products.
CASES = [
    ("classifier", 0.35, 224),
    ("classifier", 1.0, 96),
    ("classifier", 1.4, 160),
    ("ssdlite", 0.35, 160),
    ("ssdlite", 1.0, 224),
    ("ssdlite", 1.4, 96),
    ("deeplabv3", 0.35, 96),
    ("deeplabv3", 1.0, 160),
    ("deeplabv3", 1.4, 224),
    ("faster_rcnn", 1.0, 96),
]


@pytest.mark.parametrize(("task", "width", "size"), CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_costs_are_equal_within_two_percent(network, task, width, size):
    config = resolve(settled(f"task={task}", *NETWORKS[network], f"backbone.width={width}")).settings
    reference = reference_of(config, settled()["backbone"]["block"])
    passes = [((size, size), [task])]
    found = match_width(config, reference, {task: CLASSES}, passes, "madds")
    config["backbone"] |= {"width": found.width, "divisor": found.divisor}
    wanted = cost(reference, {task: CLASSES}, passes)["madds"]
    assert cost(config, {task: CLASSES}, passes)["madds"] == pytest.approx(wanted, rel=TOLERANCE)


def test_parameters_can_be_matched_too_and_the_reference_stays_as_it_is():
    config = resolve(settled("task=classifier", "backbone.width=0.5", "block@backbone.block=separable")).settings
    reference = reference_of(config, settled()["backbone"]["block"])
    classes, passes = {"classifier": CLASSES}, [((96, 96), ["classifier"])]
    found = match_width(config, reference, classes, passes, "parameters")
    assert abs(found.off) <= TOLERANCE and found.width > 0.5
    assert match_width(reference, reference, classes, passes, "madds")[:2] == (0.5, 8)
    with pytest.raises(InputError, match="backbone.match"):
        match_width(config, reference, classes, passes, "latency")
