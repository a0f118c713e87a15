"""An AWS account for training jobs: setting it up, checking it, nightly jobs in it, cleaning it up."""
