"""Other systems, started and asked in the same way as nefia, to compare it with."""
