"""Tasks: a dataset's parts to train, choose and test on, in batches on the device.

Datasets become tasks here; runs train on them.
"""
