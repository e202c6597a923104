"""What a search found: its front, tables, figures and files, confirmed on other data."""
