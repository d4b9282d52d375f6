"""Views as figures for a paper: the page's own pictures in its light theme, drawn by matplotlib. One idea, one file."""
