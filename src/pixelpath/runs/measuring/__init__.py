"""What is measured of runs and images, and the pages and documents that tell it."""
