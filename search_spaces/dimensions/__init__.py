"""What may vary, a file a dimension."""
