"""One run that several processes, the ranks, train together. Each rank has its part of every minibatch.

The rest of `running` calls `Group` wherever the ranks must exchange or combine something.
"""
