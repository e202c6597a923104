"""A run as one page that looks after itself: its front, its layers, what was confirmed, how to make it again."""
