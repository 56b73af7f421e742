"""`apply` on a daemon, which hosts no machine. On programs: tests/node/test_node_application.py."""

from __future__ import annotations

import pytest

from nefia.errors import OtherMachine
from tests.admin.perfect_node import Node, ask


async def test_a_daemon_has_no_such_machine(node: Node) -> None:
    with pytest.raises(OtherMachine):
        await ask(node, "apply", machine="counter", command="YQ==")
    assert not node.changes
