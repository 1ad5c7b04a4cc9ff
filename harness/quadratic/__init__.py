"""The noisy quadratic problem of the late-phase paper: theory, simulation, and studies of it.

No network is trained here.
"""
