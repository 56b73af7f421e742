"""One node: a Raft, its log on disk, its links to the others, and the state it applies (floor 4).

`Node` is what the admin floor uses. Within, `Replica` drives the pure core, `Applier` feeds the
state machine and tells whoever waits, `Membership` is what operators ask of the leader.
"""
