"""The data doctor: what a data set holds, what is wrong with it, and which settings suit it, before anyone trains."""
