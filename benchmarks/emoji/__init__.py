"""Does fine-tuning pay? On emoji: two vendors' drawings and names for training, a third's drawings for testing."""
