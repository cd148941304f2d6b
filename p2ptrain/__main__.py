"""`python -m p2ptrain` and the program `p2ptrain` start here."""

import signal

if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` hears it: no traceback from an import

from p2ptrain.cli import main

if __name__ == "__main__":
    main()
