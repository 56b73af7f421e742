"""Does anything notice? Each mistake that Raft implementations make, planted once (DESIGN.md)."""
