"""The replicated state machine, pure and deterministic (SPEC 8): same log, same state."""
