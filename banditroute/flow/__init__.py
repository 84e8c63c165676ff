"""The streaming protocol as pure state machines, one partition at a time.

No await, no clock, no sockets: batches go in, effects come out, `now` is an argument. The engine
(`banditroute.runtime`), the library face (`banditroute.router`) and the simulator drive the same code.

One event, in one direction::

    requests ─ decider ─> decisions ─ partition.know ─> pending
    feedback ─ copier  ─> journal   ─ learner.apply  ─> evidence ─ snapshot ─> state ─ board ─> posterior
"""
