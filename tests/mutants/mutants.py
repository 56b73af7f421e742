"""The table: which mistake, where it is planted, and what is to notice it: see `mistakes`."""

from __future__ import annotations

from tests.mutants.mistakes import Mutant
from tests.mutants.storage_mutants import STORAGE_MUTANTS

CORE = "nefia/raft/core.py"
DURABILITY = "nefia/raft/durability.py"
ELECTION = "nefia/raft/election.py"
FOLLOWER = "nefia/raft/follower.py"
LEADER = "nefia/raft/leader.py"
LOG = "nefia/raft/log.py"
ACCEPTOR = "nefia/net/acceptor.py"
REPLICA = "nefia/node/replica.py"
TENURE = "nefia/raft/tenure.py"
LEADERSHIP = "nefia/services/leadership.py"

ELECTIONS = ("tests/raft/test_raft_elections.py", "tests/raft/test_raft_transcripts.py")
REPLICATION = ("tests/raft/test_raft_replication.py", "tests/raft/test_raft_transcripts.py")
MEMBERSHIP = ("tests/raft/test_raft_membership.py", "tests/raft/test_raft_transcripts.py")
IDENTITY = ("tests/raft/test_raft_identity.py",)
LEASE = ("tests/raft/test_raft_lease.py", "tests/raft/test_raft_transcripts.py")
ACCEPTING = ("tests/net/test_net_acceptor.py",)
LEADING = ("tests/node/test_node_leadership.py",)
TENURES = ("tests/raft/test_raft_tenure.py",)
SERVICES = ("tests/node/test_node_services.py",)
FAILOVER = ("tests/node/test_node_failover.py",)

MUTANTS = (
    Mutant(
        1,
        "a vote leaves before it is durable",
        DURABILITY,
        "        if needed <= self._durable_version:\n            return [message]\n",
        "        if needed <= self._durable_version or type(message).__name__ == 'VoteReply':\n"
        "            return [message]\n",
        ELECTIONS,
    ),
    Mutant(
        1,
        "a vote is forgotten on stepping down",
        CORE,
        "        if term > self.term:\n"
        "            self._set_hard_state(evolve(self.hard_state, term=term, vote=None))\n",
        "        self._set_hard_state(evolve(self.hard_state, term=term, vote=None))\n",
        ELECTIONS,
    ),
    Mutant(
        2,
        "old terms are committed by counting",
        LEADER,
        "if index <= raft.commit_index or raft.log.term_at(index) != raft.term:",
        "if index <= raft.commit_index:",
        REPLICATION,
    ),
    Mutant(
        3,
        "a stale append truncates",
        FOLLOWER,
        "            if term_here == entry.term:\n",
        "            if term_here == entry.term and entry.index <= self._raft.commit_index:\n",
        REPLICATION,
    ),
    Mutant(
        4,
        "a heartbeat commits what it has not verified",
        FOLLOWER,
        "self._raft.advance_commit(min(message.commit_index, match_index))",
        "self._raft.advance_commit(min(message.commit_index, self._raft.log.last_index))",
        REPLICATION,
    ),
    Mutant(
        5,
        "the commit index goes back",
        CORE,
        "        if index <= self.commit_index:\n            return\n",
        "",
        REPLICATION,
    ),
    Mutant(
        5,
        "the match index goes back",
        "nefia/raft/progress.py",
        "self.match_index = max(self.match_index, index)",
        "self.match_index = index",
        ("tests/raft/test_raft_progress.py",),
    ),
    Mutant(
        6,
        "acknowledgements are counted, not voters",
        LEADER,
        "        index = agreed_value(self._voters, matched)",
        "        index = sorted(matched.values(), reverse=True)[len(matched) // 2]",
        REPLICATION,
    ),
    Mutant(
        6,
        "a voter that answers twice counts twice",
        ELECTION,
        "        votes.setdefault(voter, granted)\n",
        "        if voter in votes and granted:\n"
        "            voter = min(self._voters - votes.keys(), default=voter)\n"
        "        votes.setdefault(voter, granted)\n",
        ELECTIONS,
    ),
    Mutant(
        6,
        "late votes count as pre-votes",
        ELECTION,
        "        if self._raft.role is Role.CANDIDATE:  # a late answer is no pre-vote\n",
        "        if True:\n",
        ELECTIONS,
    ),
    Mutant(
        6,
        "pre-votes of another round count",
        ELECTION,
        "        if message.round == campaign.question.round:\n",
        "        if True:\n",
        ELECTIONS,
    ),
    Mutant(
        7,
        "the lease survives handing over",
        LEADER,
        "        if self.handed_over:\n",
        "        if False:\n",
        LEASE,
    ),
    Mutant(
        8,
        "the lease runs from the answer, not from the sending",
        LEADER,
        "self._confirmed_at = max(self._confirmed_at, begun_at)",
        "self._confirmed_at = self.raft.now",
        LEASE,
    ),
    Mutant(
        8,
        "the right to lead is not looked at before acting",
        CORE,
        "        if self._observe(now) and self.leader:\n            return self.leader\n",
        "        if self.leader:\n            return self.leader\n",
        LEASE,
    ),
    Mutant(
        8,
        "a read is answered without a round that follows it",
        LEADER,
        "self._reads.append(_Read(token, index, self.rounds.latest + 1))",
        "self._reads.append(_Read(token, index, self._confirmed_round))",
        REPLICATION,
    ),
    Mutant(
        8,
        "the leadership scope goes by the role, not by the lease",
        REPLICA,
        "        lease_end = self.raft.lease_end\n",
        "        lease_end = now + 9.0 if self.raft.leader else self.raft.lease_end\n",
        LEADING,
        simulated=False,
    ),
    Mutant(
        9,
        "a granted pre-vote is remembered as a vote",
        ELECTION,
        "            hold = raft.now + self._random.uniform(*GRANT_HOLD_SECONDS)\n",
        "            raft.vote_for(message.sender)\n"
        "            hold = raft.now + self._random.uniform(*GRANT_HOLD_SECONDS)\n",
        ELECTIONS,
    ),
    Mutant(
        9,
        "the newer term in an answer to a pre-vote is not taken over",
        CORE,
        "            case PreVoteReply() if message.term <= self.term:\n",
        "            case PreVoteReply():\n",
        ELECTIONS,
    ),
    Mutant(
        10,
        "a truncated configuration stays in force",
        LOG,
        "        while self._configurations and self._configurations[-1][0] >= index:\n"
        "            self._configurations.pop()\n",
        "",
        MEMBERSHIP,
    ),
    Mutant(
        11,
        "a change before an entry of the own term is committed",
        LEADER,
        "return self.raft.commit_index >= self.term_start and not self.changing",
        "return not self.changing",
        MEMBERSHIP,
    ),
    Mutant(
        12,
        "who comes back empty is believed to have what it had",
        LEADER,
        "                del self.progress[node_id]  # it may come back with an empty log: "
        "believe nothing\n",
        "                pass\n",
        IDENTITY,
    ),
    Mutant(
        12,
        "a wiped node takes itself for the member of its name",
        "nefia/raft/configuration.py",
        "        if member is None or (member.instance and instance and "
        "member.instance != instance):\n",
        "        if member is None:\n",
        IDENTITY,
    ),
    Mutant(
        12,
        "another data directory goes unnoticed",
        "nefia/net/handshake.py",
        "            differ(hello.instance_id, recorded_instance) and not hello.cluster_id,\n",
        "            False,\n",
        ("tests/net/test_net_handshake.py",),
        simulated=False,
    ),
    Mutant(
        13,
        "a snapshot is acknowledged before it is durable",
        DURABILITY,
        "        self.durable_index = self._out_last_index = 0\n",
        "        self.durable_index = self._out_last_index = snapshot.index\n",
        ("tests/raft/test_raft_durability.py",),
    ),
    Mutant(
        13,
        "the log is compacted past what is durable",
        CORE,
        "through = min(through, self.applied_index, self.durability.durable_index)",
        "through = min(through, self.applied_index)",
        ("tests/raft/test_raft_durability.py",),
    ),
    Mutant(
        14,
        "a leader with a hanging disk goes on",
        LEADER,
        "        return math.inf if since is None else since + "
        "self.raft.options.heartbeat_timeout\n",
        "        return math.inf\n",
        (
            "tests/raft/test_raft_elections.py::test_a_leader_whose_write_hangs_hands_over",
            "tests/node/test_node_failover.py::test_a_leader_whose_disk_hangs_hands_over",
        ),
        simulated=False,
    ),
    Mutant(
        15,
        "a node whose write failed goes on",
        REPLICA,
        "        self.raft.write_failed(now)\n        self._failure = error\n",
        "        self.raft.persisted(now, self.raft.durability._sequence)\n",
        FAILOVER,
        simulated=False,
    ),
    Mutant(
        16,
        "one member may speak in another's name",
        ACCEPTOR,
        "    if message.sender != peer:\n",
        "    if False:\n",
        ACCEPTING,
        simulated=False,
    ),
    Mutant(
        16,
        "strangers without limit",
        ACCEPTOR,
        "        if link is None and strangers >= MAX_STRANGERS:\n",
        "        if False:\n",
        ACCEPTING,
        simulated=False,
    ),
    Mutant(
        16,
        "unfinished handshakes without limit",
        ACCEPTOR,
        "        if len(self._pending) >= MAX_PENDING_HANDSHAKES:\n",
        "        if False:\n",
        ACCEPTING,
        simulated=False,
    ),
    Mutant(
        17,
        "a request id that was used is performed again",
        "nefia/state/requests.py",
        "        if first.fingerprint == fingerprint(command):\n            return first.outcome\n",
        "        if first.fingerprint == fingerprint(command):\n            return None\n",
        (
            "tests/state/test_state_requests.py",
            "tests/node/test_node_changes.py"
            "::test_a_repeated_request_answers_as_the_first_after_a_crash",
        ),
        simulated=False,
    ),
    Mutant(
        18,
        "an entry is acknowledged before it is durable",
        DURABILITY,
        "        if rests_on_entry > self.durable_index:\n",
        "        if False:\n",
        REPLICATION,
    ),
    Mutant(
        18,
        "the leader counts itself before its disk has it",
        LEADER,
        "matched[raft.node_id] = raft.durability.durable_index",
        "matched[raft.node_id] = raft.log.last_index",
        REPLICATION,
    ),
    Mutant(
        18,
        "entries that a snapshot holds are applied once more",
        CORE,
        "        self.effects.committed.clear()\n",
        "",
        REPLICATION,
    ),
    Mutant(
        16,
        "any certificate of the authority may speak for any node",
        "nefia/net/handshake.py",
        "            bool(certified_ids) and node_id not in certified_ids,\n",
        "            False,\n",
        ("tests/net/test_tls_mesh.py",),
        simulated=False,
    ),
    Mutant(
        16,
        "a certificate for something else will do",
        "nefia/net/tls_object.py",
        "    if depth == 0 and (why_not := why_no_node(certificate)):\n",
        "    if depth == 0 and (why_not := ''):\n",
        ("tests/net/test_tls_object.py",),
        simulated=False,
    ),
    Mutant(
        19,
        "a new leader waits for no earlier tenure",
        LEADER,
        "self.clear_at = raft.election.clear_at",
        "self.clear_at = raft.now",
        TENURES,
    ),
    Mutant(
        19,
        "tenures have no margin for the rates of clocks",
        TENURE,
        "CLOCK_MARGIN = 0.021\n",
        "CLOCK_MARGIN = 0.0\n",
        TENURES,
    ),
    Mutant(
        19,
        "a restarted voter knows of no tenure",
        CORE,
        "        self.contact_at = now\n",
        "        self.contact_at = now - 1000\n",
        TENURES,
    ),
    Mutant(
        19,
        "a tenure is answered before it is durable",
        CORE,
        "            self._set_hard_state(evolve(self.hard_state, tenure_ms=message.tenure_ms))\n",
        "            self.hard_state = evolve(self.hard_state, tenure_ms=message.tenure_ms)\n",
        TENURES,
    ),
    Mutant(
        19,
        "services start before those of earlier leaders are over",
        LEADERSHIP,
        "            await self._predecessors_are_over()\n",
        "",
        SERVICES,
        simulated=False,
    ),
    Mutant(
        19,
        "the leader's own view of its lease counts, not the guard's",
        LEADERSHIP,
        "        if self._guard is None:\n            self._acknowledged(lease_end)\n",
        "        self._acknowledged(lease_end)\n"
        "        if self._guard is None:\n            pass\n",
        SERVICES,
        simulated=False,
    ),
    Mutant(
        19,
        "released is committed before the services have stopped",
        LEADERSHIP,
        "        await self.supervisor.stop(reason)\n        if self._guard is not None:\n"
        "            self._guard.end(reason)\n            await self._guard.ended()\n"
        "        await self._insist(ReleaseTenure(tenure.term))\n",
        "        await self._insist(ReleaseTenure(tenure.term))\n"
        "        self._replica.resign(reason)\n        await trio.sleep_forever()\n",
        SERVICES,
        simulated=False,
    ),
    *STORAGE_MUTANTS,
)
