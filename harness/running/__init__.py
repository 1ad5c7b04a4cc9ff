"""One run in one process: its data, its method, the training loop, and the result that is written last.

Engines call `execute`; everything else here serves it.
"""
