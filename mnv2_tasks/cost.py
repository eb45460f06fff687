"""`python -m mnv2_tasks.cost`, in `mnv2_tasks.lab.paper_costs`."""

from mnv2_tasks.lab.paper_costs import main

if __name__ == "__main__":
    main()
