"""`python -m mnv2_tasks.ledger`, in `mnv2_tasks.lab.ledger`."""

from mnv2_tasks.lab.ledger import main

if __name__ == "__main__":
    main()
