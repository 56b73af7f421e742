"""What survives a crash: the log and the node's identity (SPEC 6)."""
