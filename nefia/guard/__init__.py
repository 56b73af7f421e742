"""The guard: a small process of its own that alone starts and ends external services (SPEC 9).

A daemon that is stopped, wedged, suspended or killed cannot stop anything; the guard can. It keeps
its imports few, since it has to stay small and in memory.
"""
