"""``python -m greencache``."""

from greencache.cli import main

if __name__ == "__main__":  # not so where a sweep's worker imports it
    main()
