"""The node role: agent, model store, job admission, runtime process and its engines."""
