"""`nefia drill`: a fire drill. The leader is taken away on purpose, and what clients see is judged.

`ways` reaches the daemons on this machine, `pushing` makes changes all the while, `watching` keeps
what the nodes say, `drilling` is the course of it, `judging` the verdict, which is pure.
"""
