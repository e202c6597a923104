"""Model families as data, which models belong to them, and what a base is known by."""
