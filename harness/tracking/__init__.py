"""What others see of runs: the mirror in MLflow, status, the progress display, system metrics.

Run folders are the truth; all that is here can be made anew from them.
"""
