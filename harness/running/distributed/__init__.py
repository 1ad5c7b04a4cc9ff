"""One run divided among several processes, the ranks, each with its part of every minibatch.

The rest of `running` asks `Group` what its ranks put together.
"""
