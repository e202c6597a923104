"""What a job will need of memory and time, counted before anything is loaded."""
