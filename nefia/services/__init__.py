"""What only the leader runs: tunnels, addresses, commands, hooks and the Reactor (SPEC 9, 10).

`tenure` decides from when and until when, `supervisor` starts and stops in order, `guard_client`
speaks to the guard process, which alone starts and ends whatever lives outside this process.
"""
