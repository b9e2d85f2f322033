"""A Flower app as Flower's documentation writes them: FedAvg, and training that adds a constant."""
