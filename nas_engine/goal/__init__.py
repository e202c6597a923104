"""What a search is after: objectives, constraints, and what is known of them without an evaluation."""
