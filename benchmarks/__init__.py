"""Speed, as ratios against a baseline in the same run. Every benchmark prints one JSON object as its last line."""
