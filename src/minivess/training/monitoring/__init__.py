"""What watches a training and decides no weight."""
