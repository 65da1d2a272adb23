"""What is read of a device: together, in order, and on the CPU at once."""

from __future__ import annotations

import torch
from pretend_device import DEVICE, PretendDevice

from fastrebasin.matching.readings import Readings


def test_what_is_due_is_used_in_order_before_what_is_read(there: PretendDevice) -> None:
    reading, used = Readings(DEVICE), list[tuple[float, ...]]()
    numbers = torch.arange(5).to(DEVICE).unbind()
    there.taken()
    reading.later([numbers[0], 0.5], lambda *read: used.append(read))
    reading.later([numbers[3]], lambda *read: used.append(read))
    assert (used, reading.known(numbers[0]), reading.known(2.0)) == ([], None, 2.0)
    assert reading.now([numbers[4], 7.0, numbers[1].double()]) == [4, 7, 1]
    assert used == [(0, 0.5), (3,)]
    assert [crossing.size for crossing in there.taken()] == [4]
    assert (reading.now([]), there.taken()) == ([], [])
    for _ in range(3000):  # not without end
        reading.later([numbers[0]], lambda *read: used.append(read))
    assert 1500 < len(used) < 3002


def test_on_the_cpu_all_is_read_at_once() -> None:
    reading, used = Readings(torch.device("cpu")), list[tuple[float, ...]]()
    reading.later([torch.tensor(3), 0.5], lambda *read: used.append(read))
    assert used == [(3, 0.5)]
    assert reading.known(torch.tensor(0.5)) == 0.5
    assert reading.same(torch.arange(3), torch.arange(3))
