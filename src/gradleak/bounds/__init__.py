"""What nobody can do better than, and what an update provably determines."""
