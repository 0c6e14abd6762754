"""What changes for whom when one model version takes the place of another: both score the same rows."""
