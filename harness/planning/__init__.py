"""Which runs a study takes, in which order, what they share, and what they will cost.

The command line makes a `Plan`; engines take runs from its `Schedule`.
"""
