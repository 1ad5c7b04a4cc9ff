"""Tasks: a dataset's training, validation and test examples, in minibatches on the device.

Datasets are turned into tasks here. Runs train and evaluate on tasks.
"""
