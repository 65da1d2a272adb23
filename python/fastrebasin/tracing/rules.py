"""The table of rules: what each core ATen operator says about the axes of its tensors.

A rule takes an `Operation` and returns the `Value` of its output, or a list of them, having stated
on the way which axes move together. To teach tracing an operator, add a line: under its name, or
under that of one overload, which goes first. Operators that PyTorch tags as pointwise need none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastrebasin.tracing import arithmetic as compute
from fastrebasin.tracing import indexing, layers, movement
from fastrebasin.tracing.values import Operation, Value, fixed_value

Rule = Callable[[Operation], Value | list[Value]]


def _along(argument: str, *, ordered: bool = True) -> Rule:
    """Return the rule of an operator that mixes entries along the axes it names."""
    return lambda op: movement.along(op, op.integers(argument), ordered=ordered)


def _random(op: Operation) -> Value:
    return fixed_value(op.shape)


RULES: dict[str, Rule] = {
    # Entries move, are copied or cut out.
    "aten.alias": movement.same,
    "aten.clone": movement.same,
    "aten.contiguous": movement.same,
    "aten.detach": movement.same,
    "aten.lift_fresh_copy": movement.same,
    "aten._to_copy": movement.same,
    "aten.dropout": movement.same,
    "aten.view": movement.view,
    "aten._unsafe_view": movement.view,
    "aten.reshape": movement.view,
    "aten.permute": movement.permute,
    "aten.expand": movement.expand,
    "aten.unsqueeze": movement.unsqueeze,
    "aten.squeeze": movement.squeeze,
    "aten.cat": movement.concatenate,
    "aten.slice": movement.slice_,
    "aten.select": movement.select,
    "aten.split_with_sizes": movement.split_,
    "aten.constant_pad_nd": movement.pad,
    "aten.repeat": movement.repeat,
    # Constants.
    "aten.full": movement.create,
    "aten.full_like": movement.create,
    "aten.zeros": movement.create,
    "aten.ones": movement.create,
    "aten.zeros_like": movement.create,
    "aten.ones_like": movement.create,
    "aten.scalar_tensor": movement.create,
    "aten.arange": movement.number,
    "aten.empty": movement.create,
    "aten.rand": _random,
    "aten.randn": _random,
    # The order along an axis matters.
    "aten.flip": _along("dims"),
    "aten.roll": _along("dims"),
    "aten.cumsum": _along("dim"),
    "aten.cumprod": _along("dim"),
    "aten.tril": lambda op: movement.along(op, (-2, -1)),
    "aten.triu": lambda op: movement.along(op, (-2, -1)),
    "aten.sort": compute.ordered,
    "aten.topk": compute.ordered,
    # Sums and the like over axes.
    "aten.sum": compute.reduce,
    "aten.mean": compute.reduce,
    "aten.amax": compute.reduce,
    "aten.amin": compute.reduce,
    "aten.any": compute.reduce,
    "aten.all": compute.reduce,
    "aten.prod": compute.reduce,
    "aten.var": compute.reduce,
    "aten.std": compute.reduce,
    "aten.logsumexp": compute.reduce,
    "aten.linalg_vector_norm": compute.reduce,
    "aten.var_mean": compute.reduce_both,
    "aten.argmax": compute.index_of,
    "aten.argmin": compute.index_of,
    "aten.max": compute.reduce,
    "aten.min": compute.reduce,
    "aten.max.dim": compute.reduce_with_index,
    "aten.min.dim": compute.reduce_with_index,
    "aten._softmax": _along("dim", ordered=False),
    "aten._log_softmax": _along("dim", ordered=False),
    # Matrix products and convolutions.
    "aten.mm": compute.matrix_product,
    "aten.bmm": compute.matrix_product,
    "aten.addmm": compute.matrix_product_and_sum,
    "aten.baddbmm": compute.matrix_product_and_sum,
    "aten.convolution": compute.convolution,
    # Whole layers.
    "aten.linear": layers.linear,
    "aten.scaled_dot_product_attention": lambda op: layers.attention(op)[0],
    "aten._scaled_dot_product_flash_attention_for_cpu": layers.attention,
    "aten.lstm": layers.lstm,
    "aten.gru": layers.gru,
    "aten.rnn_tanh": layers.rnn,
    "aten.rnn_relu": layers.rnn,
    # Normalisation.
    "aten._native_batch_norm_legit_no_training": compute.batch_norm,
    "aten.native_layer_norm": compute.layer_norm,
    "aten._fused_rms_norm": compute.layer_norm,
    "aten.native_group_norm": compute.group_norm,
    # Each channel by itself.
    "aten.avg_pool1d": partial(compute.local, places=1),
    "aten.avg_pool2d": partial(compute.local, places=2),
    "aten.avg_pool3d": partial(compute.local, places=3),
    "aten._adaptive_avg_pool2d": partial(compute.local, places=2),
    "aten._adaptive_avg_pool3d": partial(compute.local, places=3),
    "aten.adaptive_avg_pool1d": partial(compute.local, places=1),
    "aten.adaptive_max_pool2d": partial(compute.local, places=2, outputs=2),
    "aten.max_pool2d_with_indices": partial(compute.local, places=2, outputs=2),
    "aten.max_pool3d_with_indices": partial(compute.local, places=3, outputs=2),
    "aten.reflection_pad1d": partial(compute.local, places=1),
    "aten.reflection_pad2d": partial(compute.local, places=2),
    "aten.replication_pad2d": partial(compute.local, places=2),
    "aten.upsample_nearest1d": partial(compute.local, places=1),
    "aten.upsample_nearest2d": partial(compute.local, places=2),
    "aten.upsample_nearest3d": partial(compute.local, places=3),
    "aten.upsample_bilinear2d": partial(compute.local, places=2),
    "aten.upsample_bicubic2d": partial(compute.local, places=2),
    # By index.
    "aten.embedding": indexing.embedding,
    "aten.index_select": indexing.index_select,
    "aten.index": indexing.index,
    "aten.gather": indexing.gather,
    "aten.scatter": indexing.scatter,
    "aten.scatter_add": indexing.scatter,
    "aten.eq": compute.compare,
    "aten.ne": compute.compare,
}

# Rules whose result is the same number everywhere if their arguments are.
KEEP_CONSTANTS = {
    movement.same, movement.view, movement.permute, movement.expand, movement.unsqueeze,
    movement.squeeze, movement.slice_, movement.select, movement.split_, movement.repeat,
    compute.elementwise,
}  # fmt: skip

# Rules that know what to do with a tensor of labels; others fix the axis that is numbered.
READ_LABELS = {
    movement.same, movement.view, movement.permute, movement.expand, movement.unsqueeze,
    movement.squeeze, movement.slice_, movement.select, movement.repeat, movement.concatenate,
    indexing.embedding, indexing.index_select, indexing.index, indexing.gather, indexing.scatter,
    compute.compare,
}  # fmt: skip
