"""Mistakes in what makes a node's data durable: see `mistakes`."""

from __future__ import annotations

from tests.mutants.mistakes import Mutant

RAFT_DB = "nefia/storage/raft_db.py"
JOURNAL = "nefia/storage/journal.py"
DIRECT_WRITER = "nefia/storage/direct_writer.py"

STORAGE_MUTANTS = (
    Mutant(
        13,
        "the old log goes in a transaction before its snapshot",
        RAFT_DB,
        "        piece = self.begin_write(write)\n",
        "        if write.snapshot is not None:\n"
        "            self._change(lambda transaction: transaction.drop(self._log, delete=False))\n"
        "        piece = self.begin_write(write)\n",
        ("tests/storage/test_snapshot_steps.py",),
        simulated=False,
    ),
    Mutant(
        15,
        "a damaged record of the journal is taken for its end",
        JOURNAL,
        '            raise _Bad(f"sector {sector} begins no record")\n',
        "            break\n",
        ("tests/storage/test_journal.py",),
        simulated=False,
    ),
    Mutant(
        15,
        "the journal goes on in the generation that a crash has cut off",
        RAFT_DB,
        "        number = self._journal.generations[-1].number + 2\n",
        "        number = self._journal.generations[0].number + 3 * bool(pending)\n",
        ("tests/storage/test_journal.py",),
        simulated=False,
    ),
    Mutant(
        18,
        "entries are acknowledged before the journal is synced",
        JOURNAL,
        "    os.fdatasync(fd)\n",
        "",
        ("tests/storage/test_journal.py",),
        simulated=False,
    ),
    Mutant(
        18,
        "entries are acknowledged when the kernel has been asked to write them",
        DIRECT_WRITER,
        "        self._then = then\n        return True\n",
        "        self._then = lambda _: None\n"
        "        then(outcome.Value(None))\n"
        "        return True\n",
        ("tests/storage/test_direct_writer.py",),
        simulated=False,
    ),
    Mutant(
        18,
        "what the kernel writes by itself is not synced",
        DIRECT_WRITER,
        " | os.O_DSYNC",
        "",
        ("tests/storage/test_direct_writer.py",),
        simulated=False,
    ),
    Mutant(
        18,
        "the journal overwrites what raft.db has not taken over",
        JOURNAL,
        "        if len(self.generations) > 1 or not may_hold",
        "        if not may_hold",
        ("tests/storage/test_journal.py",),
        simulated=False,
    ),
    Mutant(
        18,
        "raft.db takes the journal over without what is being written",
        RAFT_DB,
        "            transaction.cursor(self._log).putmulti(pending, append=True)\n",
        "            transaction.cursor(self._log).putmulti(pending[:-1], append=True)\n",
        ("tests/storage/test_direct_writer.py",),
        simulated=False,
    ),
    Mutant(
        15,
        "a failed write may be tried again",
        RAFT_DB,
        "            self._failure = self._translated(error)\n"
        "            raise self._failure from error\n",
        "            raise self._translated(error) from error\n",
        ("tests/storage/test_store_contract.py",),
        simulated=False,
    ),
)
