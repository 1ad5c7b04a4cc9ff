"""The plan of a study: its runs, their order, the training that they share, and what they will cost.

The command line builds a `Plan`. Engines take runs from its `Schedule`.
"""
