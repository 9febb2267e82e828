"""``python -m greencache``."""

from greencache.cli import main

main()
