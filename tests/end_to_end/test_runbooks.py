"""docs/runbooks.md: what it shows is what one sees in that trouble, and what it says helps."""

from __future__ import annotations

import re
from pathlib import Path

from tests.end_to_end.cluster import Cluster, Daemon, new_cluster, until
from tests.end_to_end.documents import ROOT, blocks, commands
from tests.end_to_end.test_documents import NOT_WELL, Reader


def see(reader: Reader, heading: str, number: int, node: Daemon) -> None:
    """The console block of that section with that number is what `node` shows."""
    block = [b for b in blocks(NOT_WELL) if (b.heading, b.kind) == (heading, "console")][number]
    for command, output in commands(block):
        reader.compare(block, command, output, node)


def test_from_a_node_that_waits_to_a_lost_majority(place: Path) -> None:
    with new_cluster(place, 4) as four:
        reader = Reader(place, four)
        *three, waiting = four.daemons
        survivor, second, third = three
        Cluster(three).form()
        waiting.start()
        see(reader, "A node does not join", 0, waiting)
        waiting.kill()
        see(reader, "A node does not join", 1, survivor)

        second.kill()
        third.kill()
        see(reader, "No leader", 0, survivor)
        assert survivor.stop() == 0
        see(reader, "A majority is lost", 0, survivor)
        see(reader, "A majority is lost", 1, survivor)
        survivor.start()
        until(lambda: survivor.ask("queue_push", payload=1), "it goes on alone")


def test_what_you_see_is_what_is_said() -> None:
    """Every message in the table, in pieces where it stands for several, is one of the program."""
    sources = "\n".join(path.read_text() for path in (ROOT / "nefia").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message may go on in the next line
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / NOT_WELL).read_text(), re.MULTILINE)
    assert len(rows) > 10
    for message in re.findall("`(.*?)`", "\n".join(rows)):
        for piece in re.split(r" ?\.\.\. ?", message):
            assert piece in said, message
