"""Training, retraining and unlearning on real data: what the demo runs."""
