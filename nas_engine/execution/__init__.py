"""Where sub-networks are measured: in this process, by worker processes, on a cluster."""
