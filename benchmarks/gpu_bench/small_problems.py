"""All kernels on small problems, for a sanitizer to watch; says which, and checks the answers.

compute-sanitizer --tool memcheck python -m gpu_bench.small_problems
"""

from __future__ import annotations

import argparse
import itertools

import torch

from fastrebasin.statistics import Moments
from gpu_bench import adapters, proof
from gpu_bench.host import drifted

# Observations, units of x and of y: less than a tile, a tile and more, uneven.
SHAPES = [(1, 1, 1), (300, 5, 130), (2100, 129, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One thread block's problems, and larger ones.
SIZES = [(3, 1), (2, 37), (1, 300), (1, 1100)]


def correlate(device: str) -> None:
    """Take moments in every precision and dtype, of rows and of images."""
    for precision, dtype in itertools.product(adapters.precisions(), DTYPES):
        for n, d, e in SHAPES:
            x, y = (torch.randn(n, k, device=device).to(dtype) for k in (d, e))
            check(adapters.moments(x, y, -1, precision), x, y)
        x, y = (torch.randn(6, k, 5, 7, device=device).to(dtype) for k in (33, 70))
        flat_x, flat_y = (u.movedim(1, -1).flatten(0, -2) for u in (x, y))
        check(adapters.moments(x, y, 1, precision), flat_x, flat_y)
    print("cross-moments: right")


def check(found: Moments, x: torch.Tensor, y: torch.Tensor) -> None:
    """Stop unless moments are those of two passes, as far as the least precision goes."""
    u, v = (t.cpu().double() - t.cpu().double().mean(0) for t in (x, y))
    scale = torch.outer(u.square().sum(0), v.square().sum(0)).sqrt()
    off = (found.scatter.cpu() - u.T @ v).abs()
    if not (off <= 0.02 * scale + 1e-6).all():
        raise SystemExit(f"cross-moments of {tuple(x.shape)} {x.dtype} off by {off.max():.1e}")


def assign(device: str) -> None:
    """Solve problems of all sizes at once, with ties and dead units, cold and warm."""
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.randn(batch, n, n, generator=generator) for batch, n in SIZES]
    for cost in stacks[2:]:
        cost[:, ::5], cost[:, :, ::7] = 0.0, 0.0
    stacks.append(torch.randint(3, (2, 40, 40), generator=generator).float())
    costs = [cost.to(device) for cost in stacks]
    for warm in (None, adapters.solve(drifted(costs))):
        solved = [
            adapters.Solved(*map(torch.Tensor.cpu, each)) for each in adapters.solve(costs, warm)
        ]
        off = proof.worst(stacks, solved)
        if not off <= 1.0:
            raise SystemExit(f"assignments are {off:.1e} of the tolerance off")
    print("assignments: right")


def main() -> None:
    """Run everything on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    torch.manual_seed(0)
    correlate(options.device)
    assign(options.device)


if __name__ == "__main__":
    main()
