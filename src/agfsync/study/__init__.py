"""Studies: several runs that differ in little, compared in one table with intervals. A study is a run and its forks."""
