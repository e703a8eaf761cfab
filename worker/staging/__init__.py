"""What comes into a job's scratch directory before its tasks, and what is kept of it after them."""
