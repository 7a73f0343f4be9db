"""What ships with the package: the tiny base model, the sample data, and the generators that made both."""
