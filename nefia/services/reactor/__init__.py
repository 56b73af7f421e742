"""The Reactor: events of managed hosts come in, tasks come of them (SPEC 10). On the leader only.

`events`, `rules` and `pace` are pure: a message becomes an event, and an event the tasks that its
rules want. `listener` takes connections, past the `gate`; `beacon` serves one of them. `outbox`
has done, by `performing`, what is not for a user's queue. `running` is all of these in one tenure,
`service` what the supervisor starts and stops, and `client` what sends an event to whoever leads.
"""
