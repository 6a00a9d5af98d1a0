"""Studies: similar runs, compared in one table with intervals. A study consists of a run and its forks."""
