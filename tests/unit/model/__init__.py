"""The model: rules of single things."""
