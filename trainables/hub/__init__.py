"""What the Hugging Face hub says of models and data sets."""
