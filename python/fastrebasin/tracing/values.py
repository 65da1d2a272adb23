"""What a traced operation sees: its arguments as axes instead of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastrebasin.tracing.atoms import ONE, Axis, fixed
from fastrebasin.tracing.axes import join, pin


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        axes: what is known of each of its axes.
        labels: the axis whose entries its integers number (expert 3, token 17), if they do.
        constant: whether all its entries are the same number.
    """

    axes: tuple[Axis, ...]
    labels: Axis | None = None
    constant: bool = False

    @classmethod
    def of(cls, axes: Sequence[Axis], labels: Axis | None = None) -> Value:
        """Return the value with these axes."""
        return cls(tuple(axes), labels)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.axes)

    def replace(self, axis: int, new: Axis) -> Value:
        """Return the value with another axis in the place of `axis`."""
        axis %= self.ndim
        return Value((*self.axes[:axis], new, *self.axes[axis + 1 :]), self.labels)


@dataclass(frozen=True)
class Operation:
    """One call of the graph.

    Attributes:
        name: of the operator, such as `aten.mm`.
        arguments: by the names of its schema; tensors are `Value`s.
        shapes: of its outputs.
        hidden: tensors that a rule made on the way, such as the sums of a softmax.
    """

    name: str
    arguments: Mapping[str, object]
    shapes: tuple[tuple[int, ...], ...]
    hidden: list[Value] = field(default_factory=list)

    def value(self, name: str) -> Value:
        """Return a tensor argument."""
        value = self.arguments[name]
        assert isinstance(value, Value), f"{self.name}: {name} is not a tensor"
        return value

    def optional(self, name: str) -> Value | None:
        """Return a tensor argument that may be missing."""
        return self.value(name) if self.arguments.get(name) is not None else None

    def values(self) -> Iterator[Value]:
        """Yield all tensors among the arguments, those in lists included."""
        for argument in self.arguments.values():
            for item in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(item, Value):
                    yield item

    def integer(self, name: str) -> int:
        """Return an integer argument."""
        number = self.arguments[name]
        assert isinstance(number, int), f"{self.name}: {name} is not an integer"
        return number

    def integers(self, name: str) -> list[int]:
        """Return a list of integers; a single one is a list of one, and None an empty list."""
        numbers = self.arguments.get(name)
        if numbers is None:
            return []
        return list(numbers) if isinstance(numbers, (list, tuple)) else [self.integer(name)]

    def alone(self, batch: Sequence[Axis], *axes: Axis) -> None:
        """State that, batch by batch, axes move in one way whatever is beside them."""
        self.hidden.extend(Value.of([*batch, axis]) for axis in axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self.shapes[0]


def fixed_value(shape: Sequence[int]) -> Value:
    """Return a tensor none of whose axes may move."""
    return Value.of([fixed(size) for size in shape])


def pin_value(value: Value) -> None:
    """Fix all axes of a tensor, and the axis that its integers number."""
    for axis in value.axes:
        pin(axis)
    if value.labels is not None:
        pin(value.labels)


def broadcast(values: Sequence[Value], shape: Sequence[int]) -> list[Axis]:
    """Join the axes of tensors that are broadcast against each other, and return the result's."""
    result: list[Axis] = []
    for place, size in enumerate(shape):
        here = [
            value.axes[place - len(shape) + value.ndim]
            for value in values
            if place - len(shape) + value.ndim >= 0
        ]
        here = [axis for axis in here if axis.size != 1]
        for other in here[1:]:
            join(here[0], other)
        if any(axis.size != size for axis in here):  # not a broadcast that we understand
            for axis in here:
                pin(axis)
            here = [fixed(size)]
        result.append(here[0] if here else ONE)
    return result
