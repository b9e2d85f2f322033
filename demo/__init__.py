"""`make demo`: one whole private federated run on this machine, every process a real one."""
