"""What the verbs of the command line do beside running stages: doctor, export, inspect, convert."""
