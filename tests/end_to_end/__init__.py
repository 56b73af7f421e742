"""The whole, on real processes: what SPEC promises, shown from outside."""
