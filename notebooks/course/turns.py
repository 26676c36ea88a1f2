"""The checks of the cells *Your turn*: "not done yet", "right: ..." or "wrong: ..."."""
