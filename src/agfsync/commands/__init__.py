"""Commands that don't run stages, such as doctor, compare, judge, export, inspect and convert."""
