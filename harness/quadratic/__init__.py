"""The noisy quadratic problem of the late-phase paper: theory, simulation and studies. No network is trained here.

Rooms above plan and run its studies as they do others.
"""
