"""`python -m replk_probe` is the same program as `replk-probe`."""

from replk_probe.cli.main import main

if __name__ == "__main__":
    main()
