"""`make bench`: what the service costs, as ratios to the least that any Python service on uvicorn can cost."""
