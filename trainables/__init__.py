"""How a trial trains: specifications, base model, data, the adapter pack, and a toy. No Ray, no MLflow."""
