"""What every command of a service finds in its environment (SPEC 9)."""

from __future__ import annotations

NODE_ID, CLUSTER_ID, ROLE = "NEFIA_NODE_ID", "NEFIA_CLUSTER_ID", "NEFIA_ROLE"
TERM, REASON = "NEFIA_TERM", "NEFIA_REASON"
FOLLOWER = "follower"

OF_LEFTOVERS = {CLUSTER_ID: "", TERM: "0", REASON: "an earlier guard has left it"}
"""Nobody knows in which term they were begun, and a guard that starts knows no cluster yet. The
node is in the guard's own environment, from whoever starts it."""
