"""`python -m crossmodal`."""

from crossmodal.main import main

if __name__ == "__main__":  # processes that draw scenes import this module again
    main()
