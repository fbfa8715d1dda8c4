"""``cub::DeviceTopK`` as a peer, built when a benchmark asks for it and where nvcc and CUB >= 3.2 are."""
