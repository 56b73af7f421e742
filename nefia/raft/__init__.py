"""The Raft protocol as pure values and functions (floor 1).

Nothing here knows trio, a clock, a file, a socket or a logger, and randomness is injected. Read in
the order of the paper: `messages` and `entries`, `quorum`, `configuration`, `log`, `progress`,
`lease`, `roles`, `core`, and `invariants` for what must always hold.

Section numbers such as "4.2.3" cite Ongaro's dissertation, "Consensus: Bridging Theory and
Practice" (2014); "paper 5.4" cites "In Search of an Understandable Consensus Algorithm".
"""
