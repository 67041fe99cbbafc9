from __future__ import annotations

from collections import namedtuple

from replk_probe.runtime.nested import instances_in

Pair = namedtuple("Pair", ("first", "second"))


def test_instances_are_found_in_order_in_nested_containers() -> None:
    value = ["a", {"x": ("b", 1), "y": Pair("c", {"d": ["d"]})}, {"e"}, 2.0]
    assert list(instances_in(str, value)) == ["a", "b", "c", "d"]
    assert list(instances_in(int, value)) == [1] and list(instances_in(str, "f")) == ["f"]
