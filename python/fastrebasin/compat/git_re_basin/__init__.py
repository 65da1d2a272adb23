"""git-re-basin's door: code written for it, or for its PyTorch ports, runs by a changed import.

Names, arguments and direction are those of git-re-basin (Ainsworth, Hayase and Srinivasa, ICLR
2023; github.com/samuela/git-re-basin) and of its port github.com/themrzmaster/git-re-basin-pytorch:
`out[i] = b[perm[i]]` moves B onto A. The work is done by `fastrebasin.weight_matching`. We differ:

- permutations are int64 and never written into; the ports make them floats, both write into
  `init_perm`. Floats from a port are read all the same;
- a spec whose two dicts disagree, or that has one axis twice, is refused and not half obeyed;
- BatchNorm's running statistics are moved along but take no part in matching;
- nothing is printed, and everything that is wrong is named in one `ValueError`.

Parameters are flat dicts of torch tensors, of NumPy or JAX arrays, or of anything else that
`numpy.asarray` takes, which comes back as NumPy arrays. Permutations are torch tensors for torch
parameters and NumPy arrays for all others. Gradients flow through what was permuted, torch's and
JAX's.
"""

from fastrebasin.compat.git_re_basin.permutation import apply_permutation, get_permuted_param
from fastrebasin.compat.git_re_basin.spec import (
    PermutationSpec,
    from_git_re_basin,
    permutation_spec_from_axes_to_perm,
    to_git_re_basin,
)
from fastrebasin.compat.git_re_basin.weights import weight_matching

__all__ = [
    "PermutationSpec",
    "apply_permutation",
    "from_git_re_basin",
    "get_permuted_param",
    "permutation_spec_from_axes_to_perm",
    "to_git_re_basin",
    "weight_matching",
]
