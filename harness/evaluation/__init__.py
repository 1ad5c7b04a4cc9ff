"""How good a method is: metrics, out-of-distribution detection, calibration, and the landscape around its networks.

The run asks, once its method is prepared or after each epoch.
"""
