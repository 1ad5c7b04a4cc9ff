"""One run in one process: its data, its method, the training loop, the evaluation, and the result.

Engines call `execute`. Everything else here serves it.
"""
