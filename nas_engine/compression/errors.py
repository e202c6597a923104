"""What can be wrong with calibration data, a pattern of zeros or a grid, said to the person who chose it."""


class CompressionError(ValueError):
    """A model cannot be made sparse or put on a grid as asked."""
