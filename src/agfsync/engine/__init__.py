"""The engine of a stage: does the missing units in batches, and commits their rows part by part.

`processing.process_units` applies a function in this process. `running.run_job` runs a `jobs.Job`, which loads a model
and fits its batches into memory, in the workers of the recipe's `engine`.
"""
