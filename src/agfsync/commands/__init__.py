"""Commands other than running stages: doctor, export, inspect, convert."""
