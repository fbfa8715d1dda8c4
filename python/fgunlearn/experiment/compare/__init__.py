"""Methods side by side: on the same splits, against the same retrained models, measured alike."""
