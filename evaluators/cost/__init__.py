"""What follows from the sizes of a sub-network alone: parameters, bytes, operations, energy, time on paper."""
