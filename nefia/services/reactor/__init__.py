"""The Reactor: events of managed hosts come in, tasks come of them (SPEC 10). On the leader only.

`events` and `rules` are pure: a message becomes an event, and an event the tasks that its rules
want. `listener` takes connections, `beacon` serves one. `outbox` performs what is not for a user's
queue, through `performing`. `service` is what the supervisor starts and stops, and `client` what
sends one event to whichever Reactor leads.
"""
