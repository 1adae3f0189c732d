"""What run_pipeline.py runs: the scripts of every stage as jobs, on this machine or on a cluster."""
