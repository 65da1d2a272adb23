"""Models and losses with a matcher, compiled: one graph, the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import assert_same, by_scipy
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from fastrebasin import linear_sum_assignment
from fastrebasin.operators import cross_moments, linear_assignment

COMPILER = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # torch's own
]
Match = Callable[[Tensor], tuple[Tensor, Tensor]]
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=COMPILER)]


@pytest.fixture(autouse=True)
def _compiled_anew() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", BACKENDS)
def test_scipys_door_is_one_graph_for_all_sizes(backend: str, device: str) -> None:
    counter = CompileCounterWithBackend(backend)

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def pairs(cost: Tensor) -> tuple[Tensor, Tensor]:
        rows, cols = linear_sum_assignment(cost.square(), maximize=True)
        return rows, cols + 1

    for shape in ((4, 5), (5, 4), (6, 6), (3, 9)):
        cost = torch.rand(shape, device=device)
        rows, cols = by_scipy(cost.square(), maximize=True)
        assert_same(pairs(cost), (rows, cols + 1))
    assert counter.frame_count == 1


def test_how_many_columns_there_are_may_depend_on_data(device: str) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def pairs(cost: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return linear_sum_assignment(cost[:, keep])

    cost = torch.rand(4, 8, device=device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for kept in (2, 6):
            keep = torch.arange(8, device=device) < kept
            assert_same(pairs(cost, keep), by_scipy(cost[:, :kept]))


def test_only_a_matrix_goes_through_scipys_door() -> None:
    compiled = torch.compile(linear_sum_assignment, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"expected a matrix \(2-D array\), got a 3 array"):
        compiled(torch.zeros(2, 3, 3))


class Detector(nn.Module):
    """Points and scores of classes from features, one of each query."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.scores = nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.points(features), self.scores(features).log_softmax(-1)


def set_loss(
    points: Tensor, scores: Tensor, targets: Tensor, labels: Tensor, match: Match
) -> Tensor:
    """Return the loss of the best match, such as DETR's: costs, pairs, gathered terms."""
    loss = points.new_zeros(())
    for k in range(len(points)):
        cost = torch.cdist(points[k], targets[k]) - scores[k][:, labels[k]]
        queries, objects = match(cost)
        offsets = points[k, queries] - targets[k, objects]
        loss = loss + offsets.norm(dim=-1).sum() - scores[k, queries, labels[k, objects]].sum()
    return loss


def set_loss_of_a_batch(
    points: Tensor, scores: Tensor, targets: Tensor, labels: Tensor, match: Match
) -> Tensor:
    """Return the same from one call for all examples."""
    picked = labels[:, None].expand(-1, points.shape[1], -1)
    cost = torch.cdist(points, targets) - scores.gather(2, picked)
    queries, objects = match(cost)
    example = torch.arange(len(points), device=points.device)[:, None]
    offsets = points[example, queries] - targets[example, objects]
    distances: Tensor = offsets.norm(dim=-1)
    return distances.sum() - scores[example, queries, labels[example, objects]].sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("loss", "match"), [(set_loss, linear_sum_assignment), (set_loss_of_a_batch, linear_assignment)]
)
def test_a_loss_with_a_matcher_is_one_graph(
    loss: Callable[..., Tensor], match: Match, backend: str, device: str
) -> None:
    model = Detector().to(device)
    features = torch.randn(3, 7, 8, device=device)
    targets = torch.rand(3, 4, 2, device=device)
    labels = torch.randint(3, (3, 4), device=device)

    @torch.compile(fullgraph=True, backend=backend)
    def compiled(features: Tensor) -> Tensor:
        return loss(*model(features), targets, labels, match)

    found, expected = compiled(features), loss(*model(features), targets, labels, by_scipy)
    torch.testing.assert_close(found, expected)
    ours, reference = (
        torch.autograd.grad(value, list(model.parameters())) for value in (found, expected)
    )
    torch.testing.assert_close(ours, reference)
    assert all(gradient.abs().sum() > 0 for gradient in ours)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_other_sizes(strict: bool) -> None:
    class Matcher(nn.Module):
        def forward(self, cost: Tensor) -> tuple[Tensor, Tensor]:
            return linear_sum_assignment(cost, True)

    sizes = {0: torch.export.Dim("n"), 1: torch.export.Dim("m")}
    program = torch.export.export(
        Matcher(), (torch.rand(5, 7),), dynamic_shapes=(sizes,), strict=strict
    )
    operator = torch.ops.fastrebasin.linear_assignment.default
    assert [node.target for node in program.graph.nodes].count(operator) == 1
    for shape in ((3, 4), (9, 2)):
        cost = torch.rand(shape)
        assert_same(program.module()(cost), by_scipy(cost, maximize=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_moments_of_activations_may_be_asked_for_in_training(backend: str, device: str) -> None:
    layer, x = nn.Linear(4, 3).to(device), torch.randn(20, 4, device=device)

    @torch.compile(fullgraph=True, backend=backend)
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = layer(x).relu()
        return hidden.sum(), cross_moments(hidden, x)[0]

    loss, products = step(x)
    hidden = layer(x).relu()
    torch.testing.assert_close(products, hidden.double().T @ x.double(), rtol=1e-5, atol=1e-5)
    ours, expected = (torch.autograd.grad(value, layer.weight) for value in (loss, hidden.sum()))
    torch.testing.assert_close(ours, expected)
