"""`nefia cluster recover`: going on without a lost majority (SPEC 3, issue 5).

`plan` decides and is pure; `act` reads data directories, dials and writes. Raft promises nothing
here any more: what follows is the operator's decision, and these modules keep it from being made
by mistake, with the wrong node or beside a cluster that still lives.
"""
