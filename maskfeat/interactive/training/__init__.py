"""Training of the click decoder: sessions of simulated users, their data, the task that fits."""
