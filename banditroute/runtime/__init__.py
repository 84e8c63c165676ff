"""The shell: brokers, clocks and processes around the pure core.

`ports` says what a broker is; `memory`, `kafka` and `embedded` are three; `topics` makes and checks topics;
`restore` brings a partition back from its logs; `tasks` and `engine` perform what the core asks for.
"""
