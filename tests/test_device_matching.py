"""Weight matching on a device: it decides as on the CPU, and the host waits once a sweep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nested_specs import CASES
from pretend_device import DEVICE, PretendDevice, is_one_flag
from torch import Tensor

from fastrebasin import PermutationSpec, synchronised_matching, weight_matching
from fastrebasin.architectures import mlp, resnet
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.permutation import Permutation, identity_permutation

Params = dict[str, Tensor]
Pair = tuple[PermutationSpec, Params, Params]

# One visit of these doesn't find the best with all others held; see `Family`.
SLOW = ("group norm", "grouped convolution", "stacked GRU")


def placed(params: Params, device: torch.device = DEVICE) -> Params:
    return {name: tensor.to(device) for name, tensor in params.items()}


def pair(name: str, seed: int) -> Pair:
    """Return networks that have nothing to do with each other."""
    if name in CASES:
        case = CASES[name]
        return case.spec(), case.params(seed), case.params(seed + 10)
    torch.manual_seed(seed)
    spec = resnet() if name == "ResNet20" else mlp(3)
    makes = resnet20 if name == "ResNet20" else lambda: MLP(20, (24, 22, 20), 5)
    dtype = torch.float64 if "float64" in name else torch.float32
    a, b = (makes().to(dtype).state_dict() for _ in range(2))
    return spec.bind(a), a, b


def assert_equal(first: Permutation, second: Permutation) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(order, second[group]) for group, order in first.items())


@pytest.mark.parametrize("start", ["identity", "anchored"])
@pytest.mark.parametrize(
    "name", ["ResNet20", "MLP", "float64 MLP", *(n for n in CASES if n not in SLOW)]
)
@pytest.mark.usefixtures("there")
def test_decides_as_on_the_cpu(name: str, start: Any) -> None:
    spec, a, b = pair(name, 0)
    here = weight_matching(spec, a, b, init=start)
    found = weight_matching(spec, placed(a), placed(b), init=start)
    assert_equal(found.permutation, here.permutation)
    assert found.objective == pytest.approx(here.objective, rel=1e-6)
    assert found.objectives[-1] == found.objective


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.usefixtures("there")
def test_ends_where_the_cpu_would_not_go_on(name: str) -> None:
    for seed in range(3):
        spec, a, b = pair(name, seed)
        found = weight_matching(spec, placed(a), placed(b), init="identity", seed=seed)
        again = weight_matching(spec, a, b, init=found.permutation)
        assert again.sweeps == 1
        assert_equal(again.permutation, found.permutation)


@pytest.mark.parametrize("name", ["ResNet20", *CASES])
def test_one_small_flag_crosses_in_a_sweep(name: str, there: PretendDevice) -> None:
    spec, a, b = pair(name, 0)
    matcher = WeightMatcher(spec, placed(a), placed(b))
    start = {g: p.to(DEVICE) for g, p in identity_permutation(spec.sizes).items()}
    there.taken()
    sweeps = 0
    # A gain for each group, and a status for each batch of assignments, of which a group that isn't
    # flat needs several.
    most = 2 * len(spec.groups) if name == "ResNet20" else 100
    for permutation, _ in matcher.sweeps(start, torch.Generator().manual_seed(0)):
        assert is_one_flag(there.taken(), most)
        assert all(order.device == DEVICE for order in permutation.values())
        sweeps += 1
    assert sweeps > 1 or name in CASES


@pytest.mark.usefixtures("there")
def test_costs_that_are_not_finite_are_reported() -> None:
    spec, a, b = pair("MLP", 0)
    loud = {name: tensor * 1e25 for name, tensor in a.items()}
    with pytest.raises(ValueError, match="cost matrices must be finite"):
        weight_matching(spec, placed(loud), placed({n: t * 1e25 for n, t in b.items()}))


@pytest.mark.parametrize("method", ["anchor", "merge-many", "cycle-consistent"])
@pytest.mark.usefixtures("there")
def test_many_models_are_aligned_as_on_the_cpu(method: Any) -> None:
    torch.manual_seed(0)
    models = [MLP(20, (24, 22), 5).state_dict() for _ in range(3)]
    here = synchronised_matching(mlp(2), models, method=method, progress=False)
    found = synchronised_matching(mlp(2), list(map(placed, models)), method=method, progress=False)
    for first, second in zip(found.permutations, here.permutations, strict=True):
        assert_equal(first, second)
    assert found.objective == pytest.approx(here.objective, rel=1e-6)


@pytest.mark.usefixtures("there")
def test_a_former_matching_starts_one_elsewhere() -> None:
    spec, a, b = pair("ResNet20", 0)
    here = weight_matching(spec, a, b)
    found = weight_matching(spec, placed(a), placed(b), init=here)
    assert all(solved.col_duals.device == DEVICE for solved in found.assignments.values())
    back = weight_matching(spec, a, b, init=found)
    for matching in (found, back):
        assert matching.sweeps == 1
        assert_equal(matching.permutation, here.permutation)
    for group, solved in found.assignments.items():
        assert solved.objective.item() == pytest.approx(here.assignments[group].objective.item())


@pytest.mark.usefixtures("there")
def test_parameters_on_two_devices_are_refused() -> None:
    spec, a, b = pair("MLP", 0)
    with pytest.raises(ValueError, match="must lie on one device, got cpu, meta"):
        weight_matching(spec, a, placed(b))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("name", ["ResNet20", *CASES])
def test_the_host_waits_once_a_sweep(name: str, reads: list[int]) -> None:
    spec, a, b = pair(name, 0)
    cuda = torch.device("cuda", 0)
    start = {g: p.to(cuda) for g, p in identity_permutation(spec.sizes).items()}
    for mode in ("default", "error"):  # what is set up at the first use may wait
        matcher = WeightMatcher(spec, placed(a, cuda), placed(b, cuda))
        reads.clear()
        torch.cuda.set_sync_debug_mode(mode)
        sweeps = list(matcher.sweeps(start, torch.Generator().manual_seed(0)))
        torch.cuda.set_sync_debug_mode("default")
        assert len(reads) == len(sweeps)
        assert all(order.is_cuda for order in sweeps[-1][0].values())
