"""`python -m guidebook`, for `torchrun -m guidebook train …` and `accelerate launch -m guidebook train …`."""

from guidebook.cli import main

main()
