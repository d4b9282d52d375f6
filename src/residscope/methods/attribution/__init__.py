"""What each part gives to a number: directly, or to first order by gradients."""
