"""`python -m ebwm_cli` is `ebwm`, so that launchers such as torchrun can start it as a module."""

from ebwm_cli.cli import main

if __name__ == "__main__":
    main()
