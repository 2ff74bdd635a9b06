"""Training sparse autoencoders on tokens from any model."""
